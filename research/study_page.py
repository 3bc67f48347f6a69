"""The study's page: the paper's figures and ours side by side, with commands, time and memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from research.orderings import judge
from research.study_commands import Planner, text_of
from research.study_figures import Curve, froc_panels, share_figure
from research.study_plan import COLUMNS, Row, Table
from research.study_pretraining import pretraining_run
from research.study_results import MAP, MEAN, Estimate, Outcome, estimate, outcome
from research.study_runs import RESULT
from scripts.data.deeplesion.splits import dataset_notice
from scripts.storage.atomic_files import replacing

PAGE, FIGURES = "study.md", "figures"
_LEGEND = (
    "Ours: mean ± standard deviation over seeds. The 95 % interval is that of the mean by Student's t over seeds, the "
    "chance of another training; with one seed (†) it is by bootstrap over test patients, the chance of another test "
    "set. Minutes are wall time of training and evaluation; memory is the most that a training "
    "held on the GPU, or without one the greatest resident memory of its process."
)
_STAND_IN = (
    "Pre-trained rows start from one pre-training of this study on synthetic coloured shapes, a stand-in of natural "
    "images: no photographs, no COCO."
)
_ORDERINGS = (
    "Differences in points, paired by seed: mean, and 95 % interval by Student's t over the seeds. *Confirmed*: the "
    "interval lies on the paper's side of zero; *refuted*: on the other side; *undecided*: it holds zero, or there is "
    'one seed. "Not worse" is confirmed above -{margin:g} points, "equals" within {margin:g}.'
)


@dataclass
class Findings:
    """What has come out so far.

    Attributes:
        planner: Makes the runs.
        seeds: Seeds of every row.
        rates: Learning rates that were tried.
    """

    planner: Planner
    seeds: Sequence[int]
    rates: Sequence[float] = ()
    _known: dict[str, Outcome] = field(default_factory=dict)

    def outcome(self, table: str, name: str) -> Outcome:
        """The outcome of a table's setting, with ``@share`` for a share of the training images."""
        setting = self.planner.study.resolve(table, name, self.planner.profile)
        if setting.key not in self._known:
            self._known[setting.key] = outcome(self.planner, setting, self.seeds, self.rates)
        return self._known[setting.key]

    @property
    def notice(self) -> str | None:
        """What the data set says of itself."""
        return dataset_notice(self.planner.places.dataset_dir)


def figure_of(value: float | None) -> str:
    """A figure of the paper as printed, or a dash."""
    return "-" if value is None else f"{value:.2f}"


def estimate_text(found: Estimate) -> str:
    """Mean and spread: ``61.2 ± 3.1``."""
    return f"{found.mean:.1f}" + ("" if found.spread is None else f" ± {found.spread:.1f}")


def span_text(span: Sequence[float] | None) -> str:
    """An interval: ``58.0 to 64.4``."""
    return "-" if span is None else f"{span[0]:.1f} to {span[1]:.1f}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _ours(row: Row, table: Table, findings: Findings) -> Outcome | None:
    return None if row.setting is None else findings.outcome(table.name, row.id)


def _interval(one: Outcome, column: str) -> str:
    values = list(one.values(column).values())
    if len(values) > 1:
        # Student's t ignores the ends of a scale in per cent.
        low, high = estimate(values).interval or (0.0, 100.0)
        return span_text((max(low, 0.0), min(high, 100.0)))
    spans = one.patient_intervals(column)
    return span_text(spans[0]) + "†" if spans else "-"


def row_lines(row: Row, one: Outcome | None) -> list[str]:
    """The lines of a row: the published figures, ours, and our interval."""
    lines = [_line([row.label, row.source, *map(figure_of, row.paper), ""])]
    if one is None or not one.results:
        said = row.why or "not run"
        return [*lines, _line(["", said, *["-"] * len(COLUMNS), "0"])]
    values = [list(one.values(column).values()) for column in COLUMNS]
    cells = [estimate_text(estimate(column)) if column else "-" for column in values]
    lines.append(_line(["", "**ours**", *(f"**{cell}**" for cell in cells), str(len(one.results))]))
    return [*lines, _line(["", "95 %", *(_interval(one, column) for column in COLUMNS), ""])]


def share_lines(table: Table, findings: Findings) -> list[str]:
    """The lines of a table by share: MAP@0.5, a column for each share."""
    lines = [_line(["method", "", *(f"{share} %" for share in table.shares)]), _line(["---"] * (2 + len(table.shares)))]
    for first in range(0, len(table.rows), len(table.shares)):
        rows = table.rows[first : first + len(table.shares)]
        label = rows[0].label.rsplit(",", 1)[0]
        lines.append(_line([label, "paper", *(figure_of(row.paper[-1]) for row in rows)]))
        cells = []
        for row in rows:
            one = findings.outcome(table.name, row.id)
            values = list(one.values(MAP).values())
            cells.append(f"**{estimate_text(estimate(values))}** ({_interval(one, MAP)})" if values else "not run")
        lines.append(_line(["", "ours (95 %)", *cells]))
    return lines


def run_lines(table: Table, findings: Findings) -> list[str]:
    """Time, memory, learning rate and commands of a table's rows."""
    head = ["row", "seeds", "minutes a seed", "peak memory, GiB", "learning rate (validation score of those tried)"]
    lines, commands, seen = [_line(head), _line(["---"] * len(head))], [], set()
    if _own_pretraining(table, findings):
        commands += ["# pre-training", *(text_of(words) for words in pretraining_run(findings.planner).steps.values())]
    for row in table.rows:
        one = _ours(row, table, findings)
        if one is None or one.setting.key in seen:
            continue
        seen.add(one.setting.key)
        rate = "of the overlays" if one.rate is None else f"{one.rate:g}"
        tried = ", ".join(f"{rate:g}: {100 * score:.1f}" for rate, score in one.tried.items())
        measured = ["-", "-", "-"]
        if one.results:
            measured = [
                f"{one.seconds() / 60:.1f}",
                f"{one.peak_bytes() / 2**30:.1f}",
                rate + (f" ({tried})" if tried else ""),
            ]
        lines.append(_line([row.label, ", ".join(map(str, one.results)) or "none", *measured]))
        seed = next(iter(one.results), findings.seeds[0])
        run = findings.planner.run(one.setting, seed, one.rate)
        commands += [f"# {row.label}", *(text_of(words) for words in run.steps.values())]
    return [*lines, "", "Commands, from the bundle's folder (the first seed; the others differ in `--seed`):", "",
            "```", *commands, "```"]  # fmt: skip


def table_lines(table: Table, findings: Findings) -> list[str]:
    """A table with caption, figure, times and commands."""
    profile, notice = findings.planner.profile, findings.notice
    what = "Synthetic data. " if notice else ""
    lines = [f"## {what}Table {table.name}: {table.title}", ""]
    caption = [f"**{notice}**" if notice else "", f"Profile `{profile.name}`."]
    if table.name in profile.scratch_tables:
        caption.append("Every row starts from scratch in this profile, the paper's do not.")
    if _own_pretraining(table, findings):
        caption.append(_STAND_IN)
    lines += [" ".join(part for part in caption if part), ""]
    if table.shares:
        lines += share_lines(table, findings)
    else:
        lines += [_line(["row", "", *COLUMNS, "seeds"]), _line(["---"] * (len(COLUMNS) + 3))]
        for row in table.rows:
            lines += row_lines(row, _ours(row, table, findings))
    lines += ["", *(f"![{alt}]({FIGURES}/{name})" for name, alt in _draw(table, findings).items()), ""]
    return [*lines, *run_lines(table, findings), ""]


def _own_pretraining(table: Table, findings: Findings) -> bool:
    """Whether rows of a table start from weights that the study makes itself."""
    study, planner = findings.planner.study, findings.planner
    settings = [study.resolve(table.name, row.id, planner.profile) for row in table.rows if row.setting]
    return any(planner.run(setting, 0).made_here for setting in settings)


def _draw(table: Table, findings: Findings) -> dict[str, str]:
    """Draw a table's figures; their names and descriptions."""
    folder, notice = findings.planner.places.output / FIGURES, findings.notice
    panels: dict[str, dict[str, Any]] = {}
    lines: dict[str, dict[int, list[float]]] = {}
    for row in table.rows:
        one = _ours(row, table, findings)
        if one is None or not one.results:
            continue
        method, _, share = row.label.rpartition(",") if table.shares else ("", "", row.label)
        panels.setdefault(method, {})[share.strip()] = Curve(
            list(one.folders.values()), None if notice else row.paper[:4]
        )
        if table.shares:
            lines.setdefault(method, {})[row.share] = list(one.values(MAP).values())
    what, drawn = "Synthetic data: " if notice else "", {}
    if panels:
        name, title = f"table_{table.name}_froc.png", f"{what}FROC of the rows of Table {table.name}"
        froc_panels(panels, folder / name, title=title, notice=notice)
        drawn[name] = f"{title}; mean over seeds, band from the lowest to the highest seed" + (
            "" if notice else "; open markers: the paper"
        )
    if lines:
        name, title = f"table_{table.name}_shares.png", f"{what}MAP@0.5 by share of the training images"
        share_figure(lines, folder / name, title=title, notice=notice)
        drawn[name] = title
    return drawn


def ordering_lines(tables: Sequence[str], findings: Findings) -> list[str]:
    """The paper's orderings with our differences and verdicts."""
    study = findings.planner.study
    what = "Synthetic data. " if findings.notice else ""
    head = ["the paper's ordering", "seeds", f"difference in {MAP}", "verdict", f"difference in {MEAN}", "verdict"]
    lines = [f"## {what}The paper's orderings", "", _ORDERINGS.format(margin=study.margin), ""]
    lines += [_line(head), _line(["---"] * len(head))]
    for ordering in study.orderings:
        if ordering["table"] not in tables:
            continue
        cells = []
        seeds = 0
        for column in (MAP, MEAN):
            found, said = judge(ordering, findings.outcome, column, study.margin)
            seeds = found.seeds if found else 0
            shown = "-" if found is None else f"{found.mean:+.1f} ({span_text(found.interval)})"
            cells += [shown, f"**{said}**"]
        lines.append(_line([ordering["words"], str(seeds), *cells]))
    return [*lines, ""]


def tables_to_show(asked: Sequence[str], findings: Findings) -> list[str]:
    """The tables asked for, and those with runs that none of these has: what has been run stays on the page."""
    tables = findings.planner.study.tables
    rows = [(name, row) for name, table in tables.items() for row in table.rows if row.setting]
    outcomes = [(name, findings.outcome(name, row.id)) for name, row in rows]
    covered = {one.setting.key for name, one in outcomes if name in asked}
    more = {name for name, one in outcomes if one.results and one.setting.key not in covered}
    return [name for name in tables if name in asked or name in more]


def left_out(tables: Sequence[str], findings: Findings) -> list[str]:
    """Say which finished runs in the study's folder the page does not show.

    Args:
        tables: The tables that it shows.
        findings: What has come out.

    Returns:
        A sentence for the runs of rows on the page with other commands, and one for all others; none if there are none.
    """
    planner = findings.planner
    shown: set[Path] = set()
    asked: set[Path] = set()
    for name in tables:
        for row in planner.study.tables[name].rows:
            if row.setting is None:
                continue
            one = findings.outcome(name, row.id)
            shown |= {folder.parent for folder in one.folders.values()}
            runs = [
                planner.run(one.setting, seed, rate) for seed in findings.seeds for rate in findings.rates or (None,)
            ]
            asked |= {run.folder for run in runs}
            shown |= {run.folder for run in runs if run.rate in one.tried}
    finished = {path.parent for path in (planner.places.output / "runs").rglob(RESULT)} - shown
    sentences = []
    for folders, why in (
        (finished & asked, "have other settings than those asked for (schedule, rates, overlays, data)"),
        (finished - asked, "are of other rows, seeds or rates"),
    ):
        names = sorted({str(folder.relative_to(planner.places.output / "runs")) for folder in folders})
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            sentences.append(f"Finished runs that are not on this page, as they {why}: {', '.join(names[:3])}{more}.")
    return sentences


def page_lines(
    tables: Sequence[str], findings: Findings, failures: Mapping[str, str], unseen: Sequence[str]
) -> list[str]:
    """The whole page; ``unseen`` are the sentences of `left_out`."""
    planner, notice = findings.planner, findings.notice
    results = [one for table in tables for row in planner.study.tables[table].rows if row.setting
               for one in findings.outcome(table, row.id).results.values()]  # fmt: skip
    lines = [f"# {'Synthetic data: a' if notice else 'A'} study after the paper's tables", ""]
    if notice:
        lines += [f"**{notice}** The paper's figures are of DeepLesion and stand here for their order alone.", ""]
    if results:
        machines = sorted({one["machine"] for one in results})
        dates = sorted({one["date"] for one in results})
        lines += [
            f"Measured on {' and '.join(machines)}, {dates[0]}{f' to {dates[-1]}' if len(dates) > 1 else ''}.",
            "",
        ]
    lines += [_LEGEND, "", *(f"**{sentence}**\n" for sentence in unseen)]
    for name in tables:
        lines += table_lines(planner.study.tables[name], findings)
    lines += ordering_lines(tables, findings)
    if failures:
        lines += ["## Failed", "", *(f"- {name}: {why}" for name, why in failures.items()), ""]
    return lines


def write_page(planner: Planner, tables: Sequence[str], findings: Findings, failures: Mapping[str, str]) -> list[str]:
    """Write ``study.md`` and its figures into the study's folder.

    Args:
        planner: Makes the runs.
        tables: Names of the tables to show, whole.
        findings: What has come out.
        failures: Runs that failed, and why.

    Returns:
        The sentences of `left_out`, which stand on the page.

    Raises:
        OSError: If a file cannot be written.
    """
    unseen = left_out(tables, findings)
    text = "\n".join(page_lines(tables, findings, failures, unseen))
    with replacing(planner.places.output / PAGE) as part:
        part.write_text(text, encoding="utf-8")
    return unseen
