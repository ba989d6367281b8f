"""The demo's outputs become one self-contained HTML page: funnel, loss, reconstructions, the generated video."""

from __future__ import annotations

import base64
from html import escape
from typing import TYPE_CHECKING, Any

import torch

from cogvideox.variants import VARIANTS
from cogvideox.weights import load_autoencoder
from conductor.films import Film, films, mp4_bytes, psnr
from groundwork.footage import SAMPLES
from groundwork.storage import open_storage

if TYPE_CHECKING:
    from conductor.demo import Places

_FILMS = 4

_STYLE = """
:root { color-scheme: light dark; --ink: #17202a; --soft: #5d6d7e; --line: #d5dbdf; --paper: #fbfbfa;
  --accent: #1f6f8b; --bad: #b9572b }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8ecef; --soft: #9aa7b1; --line: #38444d; --paper: #14191d; --accent: #59b4cf; --bad: #e08a5b } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 62rem;
  margin: 0 auto; padding: 2rem 1rem }
h1 { margin: 0 0 .2rem }
h2 { margin: 2.4rem 0 .6rem; border-bottom: 1px solid var(--line); padding-bottom: .2rem }
a { color: var(--accent) }
.lead, .soft, figcaption { color: var(--soft) }
figure { margin: 0 }
figcaption { font-size: .85rem; margin-top: .3rem }
video { width: 100%; border-radius: 6px; background: #000; display: block }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem; margin: 0 0 1.4rem }
.big { max-width: 36rem }
table { border-collapse: collapse; width: 100% }
td, th { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line) }
.n { text-align: right; font-variant-numeric: tabular-nums }
.bar { height: .9rem; background: var(--accent); border-radius: 3px; min-width: 2px }
.bar.bad { background: var(--bad) }
code { font-size: .9em; word-break: break-all }
svg { width: 100%; height: auto }
"""


def write_page(
    places: Places,
    *,
    curated: dict[str, Any],
    job: dict[str, Any],
    usage: dict[str, dict[str, float]],
) -> dict[str, Any]:
    """Write `index.html` beside the outputs; returns its reconstruction quality (PSNR, dB) per shown clip."""
    dataset = open_storage(places.dataset)
    variant = VARIANTS["toy"]
    autoencoder = load_autoencoder(places.weights / "vae", dtype=torch.float32)
    shown = films(dataset, variant=variant, autoencoder=autoencoder, limit=_FILMS)
    body = [
        "<h1>From footage to film</h1>",
        '<p class="lead">Raw video was curated, a model was trained on it, and a service made the film below.</p>',
        _generated(places, job),
        _funnel(curated),
        _loss(places),
        _reconstructions(shown, fps=variant.fps),
        _stages(usage),
        _where(places),
    ]
    title = "<meta charset='utf-8'><meta name='viewport' content='width=device-width'><title>The demo</title>"
    page = (
        f"<!doctype html><html lang='en'><head>{title}<style>{_STYLE}</style></head><body>{''.join(body)}</body></html>"
    )
    places.page.write_text(page)
    return {"psnr": {film.clip_id: round(film.psnr, 2) for film in shown}}


def _generated(places: Places, job: dict[str, Any]) -> str:
    video = job["video"]
    facts = (
        f"{video['size']}, {video['x']['num_frames']} frames, {video['x']['steps']} steps, seed {video['x']['seed']}"
    )
    return (
        "<h2>The film</h2><figure class='big'>"
        + _video(places.video.read_bytes())
        + f"<figcaption>“{escape(job['request']['prompt'])}”<br>{escape(facts)}, fetched from "
        f"<code>GET /v1/videos/{escape(video['id'])}/content</code></figcaption></figure>"
    )


def _funnel(curated: dict[str, Any]) -> str:
    clips, videos = curated["clips"], curated["videos"]
    rows = [("videos read", videos["read"], ""), ("videos failed", videos["failed"], "bad")]
    rows += [("clips found", clips["found"], "")]
    rows += [(f"rejected: {reason}", count, "bad") for reason, count in sorted(clips["rejected"].items())]
    rows += [("clips failed", clips["failed"], "bad"), ("clips kept", clips["kept"], "")]
    most = max(1, *(count for _, count, _ in rows))
    cells = "".join(
        f"<tr><td>{escape(name)}</td><td class='n'>{count}</td>"
        f"<td style='width:60%'><div class='bar {kind}' style='width:{100 * count / most:.1f}%'></div></td></tr>"
        for name, count, kind in rows
    )
    link = "<a href='dataset/report/index.html'>The dataset's own report</a>"
    return f"<h2>The funnel</h2><table>{cells}</table><p>{link}</p>"


def _loss(places: Places) -> str:
    table = open_storage(places.run).read_table("metrics.parquet")
    steps, losses = table["step"].to_pylist(), table["loss"].to_pylist()
    width, height, top = 900, 240, max(losses) or 1.0
    span = max(1, steps[-1] - steps[0])

    def path(values: list[float]) -> str:
        points = [
            f"{width * (step - steps[0]) / span:.1f},{height * (1 - value / top):.1f}"
            for step, value in zip(steps, values, strict=True)
        ]
        return " ".join(points)

    smooth = _smoothed(losses)
    return (
        "<h2>The loss</h2>"
        f"<svg viewBox='-4 -4 {width + 8} {height + 30}' role='img' aria-label='training loss by step'>"
        f"<polyline points='{path(losses)}' fill='none' stroke='var(--line)' stroke-width='1'/>"
        f"<polyline points='{path(smooth)}' fill='none' stroke='var(--accent)' stroke-width='2.5'/>"
        f"<line x1='0' y1='{height}' x2='{width}' y2='{height}' stroke='var(--line)'/>"
        f"<g fill='var(--soft)' font-size='14'><text x='0' y='{height + 20}'>step {steps[0]}</text>"
        f"<text x='{width}' y='{height + 20}' text-anchor='end'>step {steps[-1]}</text></g></svg>"
        f"<p class='soft'>Velocity error per step (grey) and smoothed: {smooth[0]:.3f} → {smooth[-1]:.3f}. "
        "<a href='run/report/index.html'>The run's own report</a></p>"
    )


def _smoothed(values: list[float]) -> list[float]:
    """Running mean over a tenth of the run on each side of a step."""
    reach = max(1, len(values) // 20)
    windows = (values[max(0, index - reach) : index + reach + 1] for index in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def _reconstructions(shown: list[Film], *, fps: float) -> str:
    rows = "".join(
        f"<div class='pair'><figure>{_video(mp4_bytes(film.footage, fps=fps))}"
        f"<figcaption>{escape(film.uri.rsplit('/', 1)[-1])} from {film.start_seconds:.2f} s: {escape(film.caption)}"
        f"</figcaption></figure><figure>{_video(mp4_bytes(film.reconstruction, fps=fps))}"
        f"<figcaption>through the autoencoder: PSNR {psnr(film.footage, film.reconstruction):.1f} dB</figcaption>"
        "</figure></div>"
        for film in shown
    )
    return f"<h2>Footage and its reconstruction</h2>{rows}"


def _stages(usage: dict[str, dict[str, float]]) -> str:
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td class='n'>{used['seconds']:.0f} s</td>"
        f"<td class='n'>{used['peak_mib']:.0f} MiB</td></tr>"
        for name, used in usage.items()
    )
    head = "<tr><th>stage</th><th class='n'>time</th><th class='n'>peak memory</th></tr>"
    return f"<h2>Time and memory</h2><table>{head}{rows}</table>"


def _where(places: Places) -> str:
    rows = [
        ("dataset", places.dataset),
        ("run and checkpoints", places.run),
        ("weights", places.weights),
        ("video", places.video),
    ]
    cells = "".join(f"<tr><td>{name}</td><td><code>{escape(str(path))}</code></td></tr>" for name, path in rows)
    licences = "; ".join(f"{sample.name}: {sample.licence}" for sample in SAMPLES)
    return f"<h2>Where it lies</h2><table>{cells}</table><p class='soft'>Sample footage: {escape(licences)}.</p>"


def _video(data: bytes) -> str:
    source = base64.b64encode(data).decode()
    return f"<video src='data:video/mp4;base64,{source}' autoplay loop muted playsinline controls></video>"
