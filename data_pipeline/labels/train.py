"""A dataset, a label file and an encoder become trained heads: `curate label train`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow.compute as pc
import yaml

from data_pipeline.duplicates.groups import components
from data_pipeline.ingest import find_sources
from data_pipeline.labels.heads import POLICY, EncoderCard, HeadsCard, write_heads
from data_pipeline.labels.models import ClipModel, Span, encoder_key, encoder_version, load_encoder, look
from data_pipeline.labels.names import LABELS, column
from data_pipeline.labels.settings import TrainingSettings
from data_pipeline.labels.store import Made, read_vectors, write_vectors
from data_pipeline.labels.targets import LabelledClips, read_targets
from data_pipeline.labels.training import PARTS, TRAIN, Trained, fit, judge, split
from data_pipeline.policy import NotCovered, Policy, Rule
from data_pipeline.stored import read, read_manifest
from groundwork.errors import InputError, PlatformError
from groundwork.storage import Storage, open_storage
from groundwork.telemetry import Progress

_KEPT_AT_ONCE = 32  # clips after which what was computed is on storage: what a killed run repeats at most


@dataclass(frozen=True)
class TrainJob:
    """What is asked for; see the options of the command."""

    dataset: str
    labels: str
    encoder: str
    out: str
    revision: str = ""
    num_frames: int = 0
    short_side: int = 336
    precision: float = 0.95
    aliases: Mapping[str, str] | None = None
    batch_clips: int = 8
    device: str = "cpu"
    settings: TrainingSettings = field(default_factory=TrainingSettings)


def train_heads(job: TrainJob) -> dict[str, Any]:
    """Train and write heads; returns what `--json` prints. What the encoder made of a clip is kept in the dataset, so
    that another training costs seconds.

    Raises InputError (labels that fit no clip, or too few films or examples), WeightsError (encoder).
    """
    out = open_storage(job.dataset)
    manifest = read_manifest(out)
    labelled = read_targets(out, job.labels, aliases=job.aliases or {})
    version = encoder_version(job.encoder, revision=job.revision, setting="--encoder")
    card = _encoder_card(job, version)
    clips = _clips(out, manifest, labelled)
    vectors, left_out = _vectors(out, manifest, job, card, clips)
    rows = [number for number, clip_id in enumerate(labelled.clip_ids) if clip_id in vectors]
    if not rows:
        raise InputError(f"None of the {len(clips)} labelled clips can be looked at: {dict(left_out)}.")
    chosen, targets = [labelled.clip_ids[number] for number in rows], labelled.targets[rows]
    matrix = np.stack([vectors[clip_id] for clip_id in chosen])
    groups = _groups(out, manifest, {clip_id: str(clips[clip_id]["video_id"]) for clip_id in chosen})
    parts = split(groups, targets, settings=job.settings)
    trained = fit(matrix, targets, parts, job.settings)
    thresholds, metrics = judge(trained, matrix, targets, parts, precision=job.precision)
    made = _card(job, card.model_copy(update={"width": matrix.shape[1]}), trained, labelled, manifest)
    made = made.model_copy(
        update={"thresholds": thresholds, "metrics": metrics, "split": _split_facts(parts, groups, targets, job)}
    )
    made = write_heads(job.out, trained.heads, made, policy=policy_of(made))
    return {
        "heads": job.out,
        "version": made.weights_sha256,
        "labelled": len(rows),
        "strangers": len(labelled.clip_ids) - len(clips),
        "left_out": dict(left_out),
        **made.model_dump(mode="json", include={"encoder", "labels", "untrained", "thresholds", "metrics", "split"}),
        "wanted_precision": job.precision,
        "policy": f"{job.out.rstrip('/')}/{POLICY}",
    }


def _encoder_card(job: TrainJob, version: str) -> EncoderCard:
    from data_pipeline.labels.encoder import planned_frames

    num_frames = planned_frames(job.encoder, revision=job.revision, num_frames=job.num_frames)
    return EncoderCard(
        model=job.encoder,
        revision=job.revision,
        version=version,
        num_frames=num_frames,
        short_side=job.short_side,
        width=0,  # known once it has seen a clip
    )


def _clips(out: Storage, manifest: Mapping[str, Any], labelled: LabelledClips) -> dict[str, dict[str, Any]]:
    """The labelled clips' rows, by clip_id."""
    table = read(out, manifest, "clips", ("clip_id", "video_id", "start_seconds", "stop_seconds"))
    mine = table.filter(pc.is_in(table.column("clip_id"), value_set=_strings(labelled.clip_ids)))
    if not len(mine):
        raise InputError(f"No label of {labelled.uri} belongs to a clip of {out.uri}.", "Label this dataset first.")
    return {row["clip_id"]: row for row in mine.to_pylist()}


def _strings(values: Sequence[str]) -> Any:
    import pyarrow as pa

    return pa.array(values, pa.string())


def _vectors(
    out: Storage, manifest: Mapping[str, Any], job: TrainJob, card: EncoderCard, clips: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, np.ndarray], Counter[str]]:
    """Vectors by clip_id, kept ones and new ones; and why some clips have none, counted."""
    key = encoder_key(card)
    found = {
        clip_id: vector
        for clip_ids, vectors in read_vectors(out, key)
        for clip_id, vector in zip(clip_ids, vectors, strict=True)
        if clip_id in clips
    }
    missing = [row for clip_id, row in clips.items() if clip_id not in found]
    done = len(clips) - len(missing)
    left_out: Counter[str] = Counter()
    with Progress("look", total=len(clips), unit="clips", initial=done) as progress:
        if missing:
            waiting: list[Made] = []
            for made in _look(out, manifest, missing, job, load_encoder(card, device=job.device), card):
                looked = [one for one in made if one.vector is not None]
                found |= {one.clip_id: np.array(one.vector, np.float32) for one in looked}
                left_out.update(one.error.partition(":")[0] for one in made if one.vector is None)
                waiting += looked  # what failed is tried again by the next training
                progress.update(len(made))
                if len(waiting) >= _KEPT_AT_ONCE:
                    write_vectors(out, key, waiting)
                    waiting = []
            write_vectors(out, key, waiting)
    return found, left_out


def _look(
    out: Storage,
    manifest: Mapping[str, Any],
    missing: Sequence[Mapping[str, Any]],
    job: TrainJob,
    model: ClipModel,
    card: EncoderCard,
) -> Iterator[list[Made]]:
    """What the encoder makes of the clips, some of one film at a time. A film that cannot be read costs its clips."""
    videos = read(out, manifest, "videos", ("video_id", "uri", "bytes", "status")).to_pylist()
    places = {row["video_id"]: row for row in videos if row["status"] == "ok"}
    by_video: dict[str, list[Mapping[str, Any]]] = {}
    for row in missing:
        by_video.setdefault(row["video_id"], []).append(row)
    for video_id, rows in by_video.items():
        spans = [Span(row["clip_id"], row["start_seconds"], row["stop_seconds"]) for row in rows]
        try:
            source = find_sources([places[video_id]["uri"]])[0]
            if source.bytes != places[video_id]["bytes"]:
                yield [
                    Made(span.clip_id, None, "changed: the source is no longer the one that was curated")
                    for span in spans
                ]
                continue
            with source.storage.local_path(source.name) as path:
                for first in range(0, len(spans), job.batch_clips):
                    batch = spans[first : first + job.batch_clips]
                    yield look(model, path, source.name, batch, short_side=card.short_side)
        except PlatformError as error:
            yield [Made(span.clip_id, None, f"unreadable: {error.message}") for span in spans]


def _groups(out: Storage, manifest: Mapping[str, Any], videos: Mapping[str, str]) -> list[str]:
    """What must not be parted, by clip: its film, and all films that hold a copy of one of its clips."""
    edges = [(video, video) for video in set(videos.values())]
    if any(path.startswith("duplicates/") for path in manifest["files"]):
        first: dict[str, str] = {}
        rows = read(out, manifest, "duplicates", ("video_id", "group")).to_pylist()
        edges += [(row["video_id"], first.setdefault(row["group"], row["video_id"])) for row in rows]
    named = {video: names[0] for names in components(edges) for video in names}
    return [named[video] for video in videos.values()]


def _split_facts(parts: np.ndarray, groups: Sequence[str], targets: np.ndarray, job: TrainJob) -> dict[str, Any]:
    members = np.asarray(groups)
    found: dict[str, Any] = {"seed": job.settings.seed}
    for number, name in enumerate(PARTS, start=TRAIN):
        mine = parts == number
        positive = {label: int((targets[mine, place] == 1).sum()) for place, label in enumerate(LABELS)}
        found[name] = {"clips": int(mine.sum()), "films": len(set(members[mine])), "positive": positive}
    return found


def _card(
    job: TrainJob, encoder: EncoderCard, trained: Trained, labelled: LabelledClips, manifest: Mapping[str, Any]
) -> HeadsCard:
    return HeadsCard(
        encoder=encoder,
        labels=trained.labels,
        untrained=dict(trained.untrained),
        hidden=job.settings.hidden,
        thresholds={},
        wanted_precision=job.precision,
        metrics={},
        split={},
        training={**job.settings.model_dump(mode="json"), "epochs_of": dict(trained.epochs)},
        label_file={"uri": labelled.uri, "sha256": labelled.sha256, "rows": len(labelled.clip_ids)},
        dataset={"uri": job.dataset, "hash": str(manifest.get("dataset_hash", ""))},
    )


def policy_of(card: HeadsCard) -> str:
    """A policy file with the thresholds of the heads, for `--policy` and `replay --rules`."""
    found = {label: threshold for label, threshold in card.thresholds.items() if threshold is not None}
    missing = dict.fromkeys(card.thresholds, f"no threshold reaches a precision of {card.wanted_precision:g}")
    missing |= {label: f"no head: {why}" for label, why in card.untrained.items()}
    policy = Policy(
        name="labels",
        source=f"heads on {card.encoder.model}, labels {card.label_file['sha256'][:12]}",
        notes=f"Thresholds for a precision of {card.wanted_precision:g} on the part that ended the training.",
        rules={label: Rule(score=column(label), above=one["threshold"]) for label, one in found.items()},
        not_covered=tuple(
            NotCovered(asks=f"label {label}", reason=why) for label, why in missing.items() if label not in found
        ),
    )
    text: str = yaml.safe_dump(policy.model_dump(mode="json", exclude_defaults=True), sort_keys=False, width=120)
    return text


def heads_text(result: Mapping[str, Any]) -> str:
    """The held-out tables for a terminal."""
    from data_pipeline.report.calibration import table_lines

    split_facts, wanted = result["split"], result["wanted_precision"]
    held = split_facts["held_out"]
    lines = [
        f"{result['labelled']} labelled clips; held out: {held['clips']} clips of {held['films']} films that were not "
        "trained on. Positive: the clip has the defect.",
        "",
        "at a score of 0.5",
        *table_lines([(label, row["half"]) for label, row in result["metrics"].items()]),
        "",
        f"at the thresholds for a precision of {wanted:g}",
        *table_lines([(label, row["wanted"]) for label, row in result["metrics"].items() if row["wanted"]]),
        "",
    ]
    for label, one in result["thresholds"].items():
        lines.append(f"{label}: " + (f"above {one['threshold']:g}" if one else f"no threshold reaches {wanted:g}"))
    lines += [f"{label}: no head, {why}" for label, why in result["untrained"].items()]
    lines += [f"left out  {why}: {count} clips" for why, count in result["left_out"].items()]
    return "\n".join([*lines, "", f"heads     {result['heads']}", f"rules     {result['policy']}"])
