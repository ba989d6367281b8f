"""The judgement of a policy's rules becomes a table in the form of the CogVideoX paper's Table 14: text and HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

_CSS = Path(__file__).with_name("page.css")
_HEAD = ("Filter", "TP", "FP", "TN", "FN", "Acc", "Precision", "Recall", "Specificity")
_SHARES = ("true_positive", "false_positive", "true_negative", "false_negative")
_RATES = ("precision", "recall", "specificity")
_NOTE = (
    "Shares of the labelled clips; positive: the rule, or the person, rejects the clip for this reason. In brackets: "
    "Wilson interval at 95 %. The labelled clips were chosen near the thresholds, so a rule does better on all clips."
)


def calibration_text(result: Mapping[str, Any]) -> str:
    """The table for a terminal."""
    head = f"{result['labelled']} labelled clips of {result['dataset']}"
    return "\n".join([head, "", *table_lines(_rows(result)), "", *_advice(result), "", _NOTE])


def table_lines(named: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """Rows of the table, by name, under its head."""
    rows = [_HEAD, *(_cells(name, row) for name, row in named)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def calibration_page(result: Mapping[str, Any]) -> str:
    """The same as a page that loads nothing."""
    head = "".join(f"<th>{name}</th>" for name in _HEAD)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in _cells(name, row)) + "</tr>"
        for name, row in _rows(result)
    )
    advice = "".join(f"<li>{escape(line)}</li>" for line in _advice(result))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Calibration</title>'
        f"<style>{_CSS.read_text()}</style></head><body><main><h1>How right the rules are</h1>"
        f'<p class="soft">{result["labelled"]} labelled clips. {escape(_NOTE)}</p>'
        f'<div class="panel scroll"><table><tr>{head}</tr>{body}</table></div>'
        f"<h2>Thresholds for a precision of {result['wanted_precision']:g}</h2>"
        f'<div class="panel"><ul>{advice}</ul></div></main></body></html>\n'
    )


def _rows(result: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return [*((row["reason"], row) for row in result["rules"]), ("any rule", result["any_rule"])]


def _cells(name: str, row: Mapping[str, Any]) -> tuple[str, ...]:
    accuracy = row["accuracy"]
    shares = (f"{row[key]:.2f}" for key in _SHARES)
    return (name, *shares, f"{accuracy['value']:.2f}" if accuracy else "-", *(_rate(row[key]) for key in _RATES))


def _rate(found: Mapping[str, float] | None) -> str:
    return f"{found['value']:.3f} ({found['low']:.2f}-{found['high']:.2f})" if found else "no case"


def _advice(result: Mapping[str, Any]) -> list[str]:
    lines = []
    for row in result["rules"]:
        for side in row["thresholds"]:
            wanted = side["wanted"]
            told = f"{row['reason']}: {row['score']} {side['side']} {side['now']:g} now; "
            if wanted is None:
                told += f"no threshold reaches {result['wanted_precision']:g} ({row['labelled_so']} clips labelled so)"
            else:
                told += (
                    f"{wanted['threshold']:g} gives precision {_rate(wanted['precision'])}, "
                    f"recall {_rate(wanted['recall'])}"
                )
            lines.append(told)
    return lines
