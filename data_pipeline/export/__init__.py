"""A finished dataset in the formats of other trainers: WebDataset tars, plain Parquet, Lance."""
