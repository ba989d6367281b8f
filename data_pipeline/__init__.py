"""Raw video → bucketed latents with captions, as Parquet shards: the curate stage."""
