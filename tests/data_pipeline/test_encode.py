"""Encoding: the latent of the shipped model, scaled, in bytes that read back and do not depend on neighbours."""

from __future__ import annotations

import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from cogvideox.autoencoder.posterior import Posterior
from cogvideox.text_encoder import HashTextEncoder
from cogvideox.variants import VARIANTS
from cogvideox.weights import load_autoencoder
from data_pipeline.encode import (
    ClipEncoder,
    EncodeJob,
    bfloat16_bytes,
    decode,
    encode_fingerprint,
    load_encoder,
    models_used,
)
from data_pipeline.recipe import Bucket, EncodeSettings
from groundwork import cutting
from groundwork.errors import MediaError, RecipeError
from groundwork.latents import float32
from groundwork.media import Frames, read_frames, sample_clip
from tests.support.films import write_film

BUCKET = Bucket(num_frames=9, height=32, width=48)
PICTURE = Bucket(num_frames=1, height=32, width=48)


def job(clip_id: str, *, start: float = 0.0, bucket: Bucket = BUCKET) -> EncodeJob:
    return EncodeJob(clip_id, start, 8.0, bucket, ("a shot",))


def settings(weights: Path, **changes: object) -> EncodeSettings:
    return EncodeSettings.model_validate({"weights": str(weights), **changes})


def numbers(data: bytes) -> np.ndarray:
    return float32(np.frombuffer(data, np.uint16))


@pytest.fixture(scope="module")
def encoder(weights: Path) -> ClipEncoder:
    return load_encoder("toy", settings(weights), fingerprint="f")


def test_bfloat16_bytes_read_back_as_they_were() -> None:
    values = torch.randn(3, 5).to(torch.bfloat16)
    data = bfloat16_bytes(values.float())
    assert torch.equal(torch.frombuffer(bytearray(data), dtype=torch.bfloat16).view(3, 5), values)
    assert np.array_equal(numbers(data), values.float().flatten().numpy())


def posterior_of(frames: Frames, weights: Path) -> Posterior:
    pixels = torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    with torch.inference_mode():
        return load_autoencoder(weights, dtype=torch.float32).encode(pixels)


def test_a_row_holds_the_scaled_mode_of_the_sampled_frames(footage: Path, weights: Path, encoder: ClipEncoder) -> None:
    path = footage / "city.mpg"
    row = encoder.encode(path, job("c", start=4.68))
    assert (row.latent_shape, row.tokens, row.log_variance) == ([16, 3, 4, 6], 18, b"")
    frames = sample_clip(path, start_seconds=4.68, num_frames=9, fps=8.0, height=32, width=48)
    assert row.latent == bfloat16_bytes(posterior_of(frames, weights).mode()[0] * VARIANTS["toy"].scale_factor)


def test_moments_are_mean_and_log_variance_of_the_scaled_latent(
    footage: Path, weights: Path, encoder: ClipEncoder
) -> None:
    frames = decode(footage / "city.mpg", job("c"))
    kept = load_encoder("toy", settings(weights, latent="moments"))
    (row,) = kept.encode_batch([(job("c"), frames)])
    assert row.latent == encoder.encode_batch([(job("c"), frames)])[0].latent
    scaled = posterior_of(frames, weights).log_variance[0].exp() * kept.variant.scale_factor**2
    assert np.allclose(np.exp(numbers(row.log_variance)), scaled.flatten().numpy(), rtol=0.02)


def test_a_sample_is_drawn_by_clip_and_fingerprint_and_by_nothing_else(footage: Path, weights: Path) -> None:
    frames = decode(footage / "city.mpg", job("c"))
    sampled = load_encoder("toy", settings(weights, latent="sample"), fingerprint="f")
    (first,), (again,) = (sampled.encode_batch([(job("c"), frames)]) for _ in range(2))
    (other,) = sampled.encode_batch([(job("d"), frames)])
    (remade,) = replace(sampled, fingerprint="g").encode_batch([(job("c"), frames)])
    assert first.latent == again.latent
    assert len({first.latent, other.latent, remade.latent}) == 3
    told = posterior_of(frames, weights)
    off = numbers(first.latent) / sampled.variant.scale_factor - told.mean.flatten().numpy()
    deviations = off / (0.5 * told.log_variance).exp().flatten().numpy()
    assert abs(deviations.mean()) < 0.15
    assert 0.85 < deviations.std() < 1.15


@pytest.mark.parametrize("bucket", [BUCKET, PICTURE])
def test_the_bytes_of_a_clip_do_not_depend_on_its_neighbours(footage: Path, weights: Path, bucket: Bucket) -> None:
    """Full or not, whoever shares the batch, in whatever order."""
    pixels = bucket.num_frames * bucket.height * bucket.width
    batched = load_encoder("toy", settings(weights, batch_pixels=3 * pixels))
    assert batched.batch_clips(bucket) == 3
    clips = [(one := job(f"c{n}", start=n / 2, bucket=bucket), decode(footage / "city.mpg", one)) for n in range(3)]
    together = {row.clip_id: row.latent for row in batched.encode_batch(clips)}
    assert {row.clip_id: row.latent for row in batched.encode_batch(clips[::-1])} == together
    assert {row.clip_id: row.latent for clip in clips for row in batched.encode_batch([clip])} == together
    single = load_encoder("toy", settings(weights))
    for clip in clips:  # another batch size may differ in the last bits: it is part of the fingerprint
        assert np.allclose(
            numbers(single.encode_batch([clip])[0].latent), numbers(together[clip[0].clip_id]), atol=0.02
        )
    with pytest.raises(ValueError, match="more than a batch"):
        single.encode_batch(clips)


def test_a_latent_has_the_size_of_its_bucket_there_and_back(footage: Path, encoder: ClipEncoder) -> None:
    for bucket in (BUCKET, PICTURE, Bucket(num_frames=17, height=48, width=32)):
        row = encoder.encode(footage / "bunny.mp4", job("c", bucket=bucket))
        latent = torch.from_numpy(numbers(row.latent).reshape(row.latent_shape).copy())[None]
        with torch.inference_mode():
            pixels = encoder.autoencoder.decode(latent / encoder.variant.scale_factor)
        assert tuple(pixels.shape[2:]) == (bucket.num_frames, bucket.height, bucket.width)


@pytest.fixture(scope="module")
def film(footage: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real pictures, with a keyframe every 20 of them: the middle can be copied out."""
    frames = [*read_frames(footage / "city.mpg", stop_seconds=3.0)][:72]
    pictures = [av.VideoFrame.from_ndarray(frame.image, format="rgb24") for frame in frames]
    pictures = [picture.reformat(width=256, height=144, format="yuv420p") for picture in pictures]
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    options = {"preset": "veryfast", "x264-params": "keyint=20:min-keyint=20:scenecut=0"}
    return write_film(path, pictures, stamps=range(len(pictures)), time_base=Fraction(1, 24), options=options)


def test_a_span_and_the_file_copied_from_it_give_the_same_latent(
    film: Path, encoder: ClipEncoder, tmp_path: Path
) -> None:
    """Copied coded frames are the source's own: no codec error at all."""
    frames = [*read_frames(film)]
    made = cutting.cut_copy(film, tmp_path / "cut.mp4", start_pts=frames[20].pts, stop_pts=frames[60].pts)
    assert made.copied_frames >= 27  # the 9 frames of the clip last 1 1/8 s
    from_span = encoder.encode(film, job("c", start=frames[20].seconds))
    assert encoder.encode(tmp_path / "cut.mp4", job("c")).latent == from_span.latent


def test_a_span_and_a_file_encoded_again_differ_by_the_codecs_error(
    film: Path, encoder: ClipEncoder, tmp_path: Path
) -> None:
    """On average pictures differ by less than 1.5 of 255 levels, latents by less than 5 % of their spread."""
    frames = [*read_frames(film)]
    cutting.cut_encode(film, tmp_path / "cut.mp4", start_pts=frames[20].pts, stop_pts=frames[60].pts, crf=18)
    clips = decode(film, job("c", start=frames[20].seconds)), decode(tmp_path / "cut.mp4", job("c"))
    assert 0 < np.abs(clips[0].astype(int) - clips[1]).mean() < 1.5
    span, cut = (numbers(encoder.encode_batch([(job("c"), one)])[0].latent) for one in clips)
    assert 0 < np.abs(span - cut).mean() < 0.05 * span.std()


def test_the_shipped_autoencoder_is_taken_where_no_weights_are_named() -> None:
    shipped = load_encoder("toy", EncodeSettings())
    (row,) = shipped.encode_batch([(job("c"), np.full((9, 32, 48, 3), 90, np.uint8))])
    assert np.isfinite(numbers(row.latent)).all()


def test_a_clip_beyond_the_end_of_its_film_is_a_media_error(footage: Path, encoder: ClipEncoder) -> None:
    with pytest.raises(MediaError, match="ends before"):
        encoder.encode(footage / "city.mpg", job("c", start=7.4))


def test_an_unknown_variant_and_missing_weights_are_told() -> None:
    with pytest.raises(RecipeError, match="cogvideox-5b"):
        load_encoder("toys", EncodeSettings())
    with pytest.raises(RecipeError, match=r"--encode\.weights"):
        models_used("cogvideox-5b", weights="")


def test_other_weights_and_settings_give_another_fingerprint(weights: Path) -> None:
    own, shipped = (models_used("toy", weights=folder) for folder in (str(weights), ""))
    assert own["autoencoder"].keys() == shipped["autoencoder"].keys() == {"diffusion_pytorch_model.safetensors"}
    assert own["text_encoder"] == HashTextEncoder().fingerprint
    plain = encode_fingerprint("toy", EncodeSettings(), models=own)
    assert plain != encode_fingerprint("toy", EncodeSettings(), models=shipped)
    assert plain != encode_fingerprint("toy", EncodeSettings(latent="moments"), models=own)
    assert plain == encode_fingerprint("toy", EncodeSettings(shard_bytes=1), models={**own, "text_encoder": "another"})


def test_the_autoencoder_of_a_whole_model_is_the_same_as_the_part_alone(weights: Path, tmp_path: Path) -> None:
    shutil.copytree(weights, tmp_path / "vae")
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "diffusion_pytorch_model.safetensors").touch()
    assert models_used("toy", weights=str(tmp_path)) == models_used("toy", weights=str(weights))
