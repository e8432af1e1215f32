"""The pages, as HTML text. Whatever comes out of a run is escaped by the templates."""

from __future__ import annotations

import base64
import functools
import hashlib
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from dopamine_rl.errors import BadInput
from experiments.viewer import plots, tables
from experiments.viewer.episodes import FILTERS, SORTS, Episode, EpisodeRow, EpisodeStore, arranged, jpeg, reference
from experiments.viewer.plots import PERSPECTIVES, RUN_COLORS, Plot
from experiments.viewer.runs import FILES, RunReader, RunState, gate_verdict, shadow

PAGE = 50
"""Episodes on a page of the list."""
CHOICES = 200
"""Episodes that the page of two runs offers for each."""
PARTING = 4
"""Episodes on a run's first page."""
REFRESH_S = 5


@dataclass(frozen=True)
class Shown:
    """One of the runs that are shown.

    Args:
        index: its number in addresses.
        label: its name on pages, unique among them.
        reader, store: read its folder.
    """

    index: int
    label: str
    reader: RunReader
    store: EpisodeStore

    @property
    def color(self) -> str:
        """Its colour in plots."""
        return RUN_COLORS[self.index % len(RUN_COLORS)]

    @property
    def path(self) -> str:
        """Its address."""
        return f"/runs/{self.index}"


def shown_runs(folders: Sequence[Path]) -> list[Shown]:
    """The runs in resolved folders; those of the same name are called after the folder above, too."""
    names = Counter(folder.name for folder in folders)
    labels = [folder.name if names[folder.name] == 1 else f"{folder.parent.name}/{folder.name}" for folder in folders]
    labels = [label if labels.count(label) == 1 else f"{label} ({i + 1})" for i, label in enumerate(labels)]
    return [
        Shown(i, label, RunReader(folder), EpisodeStore(folder))
        for i, (label, folder) in enumerate(zip(labels, folders, strict=True))
    ]


Source = Callable[[Shown, Episode, int | str], str]
"""Where a page finds a picture of an episode: a frame by its index, or a reference by its name."""


def address(run: Shown, episode: Episode, picture: int | str) -> str:
    """The address of a picture; it changes when the record does, so that browsers may keep it for ever."""
    index = len(episode.times) - 1 if picture == -1 else picture
    return f"{run.path}/episodes/{episode.row.name}/pictures/{index}?v={episode.row.changed}"


def embedded(run: Shown, episode: Episode, picture: int | str) -> str:
    """A picture as part of the page."""
    views = episode.views(picture) if isinstance(picture, int) else reference(episode, picture)  # type: ignore[arg-type]
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg(views)).decode()}"


class Pages:
    """Renders the pages of some runs.

    Args:
        runs: from `shown_runs`.
        source: where pictures are found.
    """

    def __init__(self, runs: Sequence[Shown], source: Source = address) -> None:
        self.runs, self._source = runs, source
        self._templates = Environment(
            loader=PackageLoader("experiments.viewer"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters |= {"number": tables.number, "clock": tables.clock}
        self._overview = functools.lru_cache(maxsize=2 * len(runs))(self._make_overview)
        self._comparison = functools.lru_cache(maxsize=16)(self._make_comparison)
        self._episode_plot = functools.lru_cache(maxsize=64)(self._make_episode_plot)

    def run(self, run: Shown) -> str:
        """A run's first page."""
        state = run.reader.read()
        parting = arranged(run.store.rows(), "disagreement", "training")[:PARTING]
        content = self._overview(run.index, state.stamp)
        return self._page("run.html", run=run, state=state, parting=parting, **content, **_refreshing(state))

    def episodes(self, run: Shown, sort: str, only: str, page: int) -> str:
        """The list of a run's episodes."""
        state, every = run.reader.read(), run.store.rows()
        rows = arranged(every, sort, only)
        pages = max(1, -(-len(rows) // PAGE))
        page = min(max(page, 1), pages)
        counts = {name: sum(map(passes, every)) for name, (_, passes) in FILTERS.items()}
        chosen = {"sort": sort if sort in SORTS else next(iter(SORTS)), "only": only if only in FILTERS else "all"}
        start = (page - 1) * PAGE
        content = {"rows": rows[start : start + PAGE], "start": start, "page": page, "pages": pages, "counts": counts}
        orders = {"sorts": SORTS, "filters": FILTERS, **chosen}
        return self._page("episodes.html", run=run, state=state, **content, **orders, **_refreshing(state))

    def episode(self, run: Shown, name: str, sort: str, only: str) -> str:
        """The inspector of one episode. Raises KeyError: there is none; BadInput: it cannot be read."""
        episode = run.store.episode(name)
        names = [row.name for row in arranged(run.store.rows(), sort, only)]
        place = names.index(name) if name in names else None
        around: dict[str, Any] = {"before": None, "after": None, "place": None, "count": len(names)}
        if place is not None:
            around |= {"before": names[place - 1] if place else None, "place": place + 1}
            around["after"] = names[place + 1] if place + 1 < len(names) else None
        player = self.player(run, episode)
        return self._page("episode.html", run=run, player=player, sort=sort, only=only, **around)

    def compare(self, first: Shown, second: Shown, names: Sequence[str | None]) -> str:
        """Two runs side by side, with an episode of each: one of `names`, else the first of the list."""
        pair = (first, second)
        states = [run.reader.read() for run in pair]
        content = self._comparison(first.index, second.index, tuple(state.stamp for state in states))
        sides = [self._side(run, name) for run, name in zip(pair, names, strict=True)]
        return self._page("compare.html", pair=pair, sides=sides, states=states, **content)

    def failure(self, status: int, text: str) -> str:
        """A page that says what went wrong."""
        return self._page("failure.html", status=status, text=text)

    def sign_in(self) -> str:
        """The page that asks for the token; it says nothing of the runs."""
        return self._page("sign_in.html", runs=[], title="sign in")

    def player(self, run: Shown, episode: Episode) -> dict[str, Any]:
        """What the player of an episode needs."""
        state = run.reader.read()
        captions = (state.config.get("env") or {}).get("views") or []
        count = len(episode.record.context.init)
        frames = [self._source(run, episode, index) for index in range(len(episode.times))]
        data = {"frames": frames, "times": episode.times.tolist(), "rows": tables.frame_rows(episode)}
        return {
            "run": run,
            "row": episode.row,
            "record": episode.record,
            "data": data | {"span": _span(episode)},
            "plot": self._episode_plot(run.index, episode.row, _threshold(state)),
            "captions": captions if len(captions) == count else [f"view {i + 1}" for i in range(count)],
            "aspect": _aspect(episode),
            "references": {which: self._source(run, episode, which) for which in ("start", "end", "goal")},
            "perspectives": PERSPECTIVES,
        }

    def report(self, players: Sequence[Mapping[str, Any]]) -> str:
        """All runs and some of their episodes in one file."""
        overviews = []
        for run in self.runs:
            state = run.reader.read()
            gate = run.reader.folder / "gate.png"
            picture = f"data:image/png;base64,{base64.b64encode(gate.read_bytes()).decode()}" if gate.is_file() else ""
            content = self._overview(run.index, state.stamp)
            overviews.append({"run": run, "state": state, "gate_picture": picture, **content})
        comparison = None
        if len(self.runs) > 1:
            comparison = self._make_comparison(0, 1, ()) | {"pair": self.runs[:2]}
        css, script = static("viewer.css"), static("viewer.js")
        policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{_digest(script)}'"
        inline = {"css": Markup(css), "script": Markup(script), "policy": policy}
        context = {"overviews": overviews, "players": players, "comparison": comparison, "made": time.time()}
        return self._page("report.html", inline=inline, **context)

    def _page(self, template: str, **context: Any) -> str:
        shared = {"runs": self.runs, "inline": None, "refresh_s": None, "source": self._source, "files": FILES}
        return self._templates.get_template(template).render(shared | context)

    def _make_overview(self, index: int, stamp: object) -> dict[str, Any]:
        """What of a run's first page changes with its files alone."""
        run = self.runs[index]
        state = run.reader.read()
        judged, (summary, warnings) = gate_verdict(state), shadow(state)
        drawn = (
            plots.success_plot({run.label: state}, [run.color]),
            plots.progress_plot({run.label: state}, [run.color]),
            plots.labels_plot(state),
            plots.actors_plot(state),
            plots.shadow_plot(state, _threshold(state) or _gate_threshold(state)),
        )
        return {
            "facts": tables.facts(state),
            "headlines": tables.headlines(state),
            "plots": [plot for plot in drawn if plot is not None],
            "labels": tables.label_rows(state),
            "actors": tables.actor_rows(state),
            "replaced": state.last.get("replaced_env_runners", 0),
            "shadow": tables.shadow_rows(summary) if summary["episodes"] else [],
            "warnings": warnings,
            "gate": tables.gate_rows(judged[1]) if judged else [],
            "gate_notes": judged[1].notes if judged else (),
            "gate_passed": judged[1].passed if judged else None,
            "gate_forced": state.result.get("gate_forced", False),
            "claims": tables.claim_rows(state),
            "phases": tables.phase_rows(state),
            "present": {name: words for name, words in FILES.items() if (run.reader.folder / name).is_file()},
        }

    def _make_comparison(self, first: int, second: int, stamps: object) -> dict[str, Any]:
        pair = [self.runs[first], self.runs[second]]
        states, colors = {run.label: run.reader.read() for run in pair}, [run.color for run in pair]
        drawn = (plots.success_plot(states, colors), plots.progress_plot(states, colors))
        return {
            "plots": [plot for plot in drawn if plot is not None],
            "figures": tables.compared(states),
            "differences": tables.differences(states),
        }

    def _make_episode_plot(self, index: int, row: EpisodeRow, threshold: float | None) -> Plot:
        return plots.episode_plot(self.runs[index].store.episode(row.name), threshold)

    def _side(self, run: Shown, name: str | None) -> dict[str, Any]:
        rows = arranged(run.store.rows(), "disagreement", "all")
        names = [row.name for row in rows]
        chosen = name if name in names else names[0] if names else None
        player = None
        if chosen is not None:
            try:
                player = self.player(run, run.store.episode(chosen))
            except (KeyError, BadInput):  # removed meanwhile, or damaged
                player = None
        return {"run": run, "rows": rows[:CHOICES], "chosen": chosen, "player": player}


@functools.cache
def static(name: str) -> str:
    """A style sheet or script of the pages."""
    return resources.files("experiments.viewer").joinpath("static", name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _refreshing(state: RunState) -> dict[str, Any]:
    return {"refresh_s": REFRESH_S if state.status == "running" else None}


def _threshold(state: RunState) -> float | None:
    """Φ* from which the run claims success; None where it does not."""
    rule = (state.phase_values.get("claims") or {}).get("rule") if state.config.get("success") == "progress" else None
    return rule.get("threshold") if isinstance(rule, dict) else None


def _gate_threshold(state: RunState) -> float:
    """Φ* from which an episode counts as a success in the gate's figures."""
    return float((state.config.get("gate") or {}).get("success_threshold", 0.8))


def _span(episode: Episode) -> float:
    """The last environment step on the plot's axis."""
    paid = len(episode.rewards[0]) if episode.rewards else 0
    return float(max(episode.times[-1], paid, 1))


def _aspect(episode: Episode) -> str:
    count, height, width, _ = episode.record.context.init.shape
    return f"{count * width} / {height}"
