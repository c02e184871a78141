"""``make bench BENCH=speculation``: plain vLLM, its own draft model beside it, and drafts from a pool of their own.

One core for the verifier, one for the draft server, as in the cluster; engines are loaded once for each comparison and
measured in turn, those of a trace side by side in slices. ``BENCH_QUICK=1`` takes a look; its figures are no results.
``BENCH=controller`` is its trace alone, the same with short answers, and for longer what drafts cannot foresee: made-up
traffic, switches to it, and a verifier that was upgraded without its draft.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec
from rich.console import Console
from rich.table import Table

from loadtests.drift import SEEDS, drift
from loadtests.prompts import ANSWERABLE, RECORDS, encoded
from loadtests.report import RESULTS, Bar, Outcome, bounded
from loadtests.speculation.arms import DEPTHS, DRAFT_CORE, PLAIN, VERIFIER_CORE, Arm, co_resident, fixed, split, twins
from loadtests.speculation.bars import (
    budget_table,
    ceiling_table,
    pair_rows,
    summary_table,
    trace_rows,
    virtual_rows,
)
from loadtests.speculation.compare import Comparison, Effort
from loadtests.speculation.messages import Prompt
from loadtests.speculation.pair import embedded, random_pair
from loadtests.speculation.plot import draw
from loadtests.speculation.rig import Questions, Rig
from loadtests.speculation.summary import Ceiling, Sample, Summary, ceilings, rate_of, summaries
from loadtests.speculation.trace import (
    ADAPTIVE,
    Pace,
    Phase,
    Tempo,
    Trace,
    Verdict,
    phases,
    short,
    steady,
    switches,
    upgraded,
    verdicts,
)
from loadtests.speculation.upgrade import renumbering, upgraded_pair

OURS = split(ahead=True, adaptive=True)
FIXED = split(ahead=True, adaptive=False)
SYNC, SYNC_FIXED = split(ahead=False, adaptive=True), split(ahead=False, adaptive=False)
ACCEPTANCES = (0.6, 0.8, 0.9)
MAX_TOKENS = 160
NOISE_TOKENS = 40
FEW_TOKENS = 24
BESIDE_PLAIN = {ADAPTIVE: OURS, "K=0": PLAIN}
"""The controller, and plain decoding alone."""
ALL_DEPTHS = BESIDE_PLAIN | {f"K={depth}": fixed(depth) for depth in DEPTHS}
"""The controller, and all it could have done."""
BRIEF = Tempo(2.0, 0.3)
SYNTHETIC = "real steps, synthetic acceptance"
NOTES = """\
plain: vLLM's LLMEngine without speculation, through the adapter that a replica uses (layout off).
co-resident: vLLM's own worker and draft_model, unchanged, with the best settings found; at each batch its depth is the
best of 2, 4, 6 and 8, each tried once. The fixed K of split arms is found in the same way.
Load: a closed loop over held-out prompts of all domains but records, greedy, with their real ends; every arm has the
same prompts, read once before. A window is whole rounds of the same prompts, prefills included ("decode only": without
the steps that read a prompt). Engines that wait stand still, but for those linked to the draft server.
Traces: all engines run the same phases side by side, in turns of 60 ms that end before a prompt is read, each in
several processes, of which the mean counts. All that draft share one draft server; it reads once what their histories
have in common, the controller's and the fixed depths'.
71M: random weights, so a coin of the given bias accepts each draft (vLLM's rejection_sample_method 'synthetic'; its
kernel for CPUs lacks that mode and the benchmark supplies it). The token after the accepted drafts is the verifier's
own, which a random draft model cannot foresee: no lead is ever right. So 'split sync' is the figure to read, and 'split
ahead' shows what drafting ahead in vain costs.
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of everything: ``phase`` seconds and ``laps`` of the trace, ``seeds`` of the virtual one. An arm of a
    trace runs in ``beside`` processes where it is one of two, in ``among`` where it is one of many. ``narrow``: only
    the arms without which nothing can be said."""

    family: Effort
    random: Effort
    acceptances: tuple[float, ...]
    phase: float
    laps: int
    records: int
    windows: int
    beside: int = 1
    among: int = 1
    seeds: tuple[int, ...] = SEEDS
    narrow: bool = False


MIX = len(ANSWERABLE)
FULL = Plan(
    family=Effort((1, 2, 4, 8, 16), rounds=3, seconds=2.5, settle=0.5, pool=24 * MIX, mix=MIX, dissected=(1, 4, 16)),
    random=Effort((1, 2, 4, 8, 16), rounds=2, seconds=1.2, settle=0.2, pool=32, mix=2, dissected=(1, 4, 16)),
    acceptances=ACCEPTANCES,
    phase=3.0,
    laps=3,
    records=40,
    windows=6,
    beside=3,
    among=2,
)
QUICK = Plan(
    family=Effort((1, 4), rounds=1, seconds=0.8, settle=0.2, pool=4 * MIX, mix=MIX, dissected=(1, 4)),
    random=Effort((1,), rounds=1, seconds=0.5, settle=0.1, pool=8, mix=2),
    acceptances=ACCEPTANCES[1:2],
    phase=0.5,
    laps=1,
    records=8,
    windows=2,
    seeds=SEEDS[:1],
    narrow=True,
)


class Detail(msgspec.Struct, frozen=True):
    """Everything behind the rows. ``others``: the largest share of the machine that strangers used in a window."""

    embedded: tuple[Summary, ...]
    parts: tuple[Sample, ...]
    random: tuple[Summary, ...]
    random_parts: tuple[Sample, ...]
    ceilings: tuple[Ceiling, ...]
    trace: tuple[Pace, ...]
    others: float
    idle: float
    resident_gib: float
    notes: str


class Bench:
    """One run. What is found is shown at once: a run of most of an hour should not be silent."""

    def __init__(self, plan: Plan, console: Console) -> None:
        self._plan, self._console = plan, console
        self.samples: list[Sample] = []
        self.parts: list[Sample] = []
        self.paces: list[Pace] = []
        self.synthetic: list[Sample] = []
        self.dissected: list[Sample] = []
        self.ceilings: list[Ceiling] = []
        self.others = self.idle = self.resident = 0.0

    def embedded(self) -> None:
        """The family that ships, its real acceptance, its own ends of sequences."""
        pair, prompts = embedded(), self._prompts()
        one, both = co_resident(pair, (VERIFIER_CORE,)), co_resident(pair, (VERIFIER_CORE, DRAFT_CORE))
        arms = (PLAIN, one, OURS, FIXED) if self._plan.narrow else (PLAIN, one, both, SYNC, OURS, SYNC_FIXED, FIXED)
        with Rig(pair, Questions(prompts, MAX_TOKENS)) as rig:
            self._say(f"{pair.name}: loading {len(arms)} engines")
            rig.load(arms)
            self._say("warming up, trying depths")
            comparison = Comparison(rig, arms, self._plan.family)
            comparison.warm(len(prompts))
            comparison.calibrate()
            self.samples = self._watch(comparison.measure())
            self.parts = list(comparison.dissect())
            self._show(summary_table("embedded family, one core each", summaries(self.samples)))
            self._show(budget_table("one step, milliseconds", self.parts))
            self._note(rig)

    def unforeseeable(self) -> None:
        """Traffic that drafts cannot foresee, for a longer time and right after some that they can."""
        prompts = self._prompts()
        with Rig(embedded(), Questions(prompts, MAX_TOKENS)) as rig:
            arms = self._warm(rig, BESIDE_PLAIN, self._plan.beside, len(prompts))
            course = phases([prompt.domain for prompt in prompts])
            self._unchanging("traffic that drafts cannot foresee", Trace(rig, arms, tempo=BRIEF), steady(course))
            trace = Trace(rig, arms, tempo=Tempo(self._plan.phase))
            self._traced("traffic that switches", trace, switches(course), self._plan.laps)
            self._note(rig)

    def changing(self) -> None:
        """Traffic and load that change, against every fixed depth at once."""
        self._against_all("changing traffic", MAX_TOKENS, phases)

    def hurried(self) -> None:
        """Requests that come and go all the time, so that next to no step only decodes."""
        self._against_all("short answers", FEW_TOKENS, lambda domains: short(phases(domains)))

    def collapsed(self) -> None:
        """The old draft model under a new verifier, which agrees with next to nothing it says."""
        ids = renumbering()
        prompts = tuple(Prompt(each.domain, tuple(ids[token] for token in each.tokens)) for each in self._prompts())
        with upgraded_pair() as pair, Rig(pair, Questions(prompts, MAX_TOKENS)) as rig:
            arms = self._warm(rig, BESIDE_PLAIN, self._plan.beside, len(prompts))
            course = upgraded(phases([prompt.domain for prompt in prompts]))
            self._unchanging(pair.name, Trace(rig, arms, tempo=BRIEF), course)
            self._note(rig)

    def _warm(self, rig: Rig, arms: Mapping[str, Arm], processes: int, prompts: int) -> dict[str, tuple[Arm, ...]]:
        """Load each in so many processes; they begin with all prompts read."""
        found = twins(arms, processes)
        engines = [engine for same in found.values() for engine in same]
        self._say(f"loading {len(engines)} engines")
        rig.load(engines)
        Comparison(rig, engines, self._plan.family).warm(prompts)
        return found

    def _against_all(self, title: str, most: int, course: Callable[[Sequence[str]], list[Phase]]) -> None:
        """The controller side by side with every fixed depth, answers of so many tokens at ``most``."""
        prompts = self._prompts()
        narrow = {name: arm for name, arm in ALL_DEPTHS.items() if arm in (OURS, PLAIN, fixed(max(DEPTHS)))}
        rivals = narrow if self._plan.narrow else ALL_DEPTHS
        with Rig(embedded(), Questions(prompts, most)) as rig:
            arms = self._warm(rig, rivals, self._plan.among, len(prompts))
            trace = Trace(rig, arms, tempo=Tempo(self._plan.phase))
            self._traced(title, trace, course([prompt.domain for prompt in prompts]), self._plan.laps)
            self._note(rig)

    def _unchanging(self, title: str, trace: Trace, course: Sequence[Phase]) -> None:
        """Phases each by itself: nothing changes while they are measured."""
        self._traced(title, trace, course, self._plan.windows)

    def _traced(self, title: str, trace: Trace, course: Sequence[Phase], rounds: int) -> None:
        self._say(title)
        trace.calibrate(course)
        paces = list(trace.measure(course, rounds))
        self._show(_verdicts(title, verdicts(paces)))
        self.paces += paces

    def _prompts(self) -> tuple[Prompt, ...]:
        pool = encoded(self._plan.family.pool, ANSWERABLE) + encoded(self._plan.records, (RECORDS,))
        return tuple(Prompt(each.domain, each.tokens) for each in pool)

    def random(self) -> None:
        """The larger pair. Its words are noise, so acceptance is pretended; nobody can then foresee which token follows
        the accepted ones, drafting ahead never hits, and drafts are asked for in turn."""
        pool = encoded(self._plan.random.pool, ANSWERABLE)
        prompts = tuple(Prompt(each.domain, each.tokens) for each in pool)
        with random_pair() as pair:
            one, both = co_resident(pair, (VERIFIER_CORE,)), co_resident(pair, (VERIFIER_CORE, DRAFT_CORE))
            arms = (PLAIN, SYNC) if self._plan.narrow else (PLAIN, one, both, SYNC, OURS)
            with Rig(pair, Questions(prompts, NOISE_TOKENS, ignore_eos=True, synthetic=True)) as rig:
                self._say(f"{pair.name}: loading {len(arms) + 1} engines")
                rig.load((*arms, SYNC_FIXED))
                comparison = Comparison(rig, arms, self._plan.random)
                comparison.warm(len(prompts))
                for acceptance in self._plan.acceptances:
                    rig.rate(acceptance)
                    comparison.calibrate()
                    self._say(f"synthetic acceptance {acceptance:g}")
                    self.synthetic += self._watch(comparison.measure(acceptance))
                self.dissected = list(comparison.dissect(self._plan.acceptances[-1]))
                self.ceilings = ceilings(list(comparison.verifying(SYNC_FIXED)), self._plan.acceptances)
                self._show(summary_table(f"{pair.name}, {SYNTHETIC}", summaries(self.synthetic)))
                self._show(budget_table(f"{pair.name}: one step, milliseconds", self.dissected))
                title = f"{pair.name}: what the verifier's core allows, decode only"
                self._show(ceiling_table(title, self.ceilings, self.synthetic, SYNC.name))
                self._note(rig)

    def explain(self) -> None:
        self._console.print(NOTES, style="dim", highlight=False)

    def _watch(self, samples: Iterable[Sample]) -> list[Sample]:
        """Keep them, and say how far it is."""
        kept = []
        for each in samples:
            kept.append(each)
            self._say(f"{each.arm}, batch {each.batch}: {rate_of(each.measured):.0f} tokens/s")
        return kept

    def _note(self, rig: Rig) -> None:
        self.others, self.idle = max(self.others, rig.others), max(self.idle, rig.idle)
        self.resident = max(self.resident, sum(rig.resident.values()) / 2**30)

    def _say(self, what: str) -> None:
        self._console.print(what, style="dim", highlight=False)

    def _show(self, table: Table) -> None:
        self._console.print(table)


def _verdicts(title: str, found: Sequence[Verdict]) -> Table:
    """What became of each phase."""
    table = Table(title=title)
    for head in ("phase", "against", "ratio", "spread"):
        table.add_column(head, justify="right" if head in ("ratio", "spread") else "left")
    for row, each in zip(trace_rows(found), found, strict=True):
        table.add_row(each.phase, each.best, f"{row.ratio:.3f}", f"{row.spread[0]:.2f}..{row.spread[1]:.2f}")
    return table


def controller() -> Outcome:
    """The controller alone, on real engines: whether it loses against any fixed depth."""
    bench = Bench(_plan(), Console(width=180))
    bench.unforeseeable()
    bench.changing()
    bench.hurried()
    bench.collapsed()
    return Outcome(tuple(trace_rows(verdicts(bench.paces))), tuple(bench.paces))


def _plan() -> Plan:
    return QUICK if os.environ.get("BENCH_QUICK") else FULL


def measure() -> Outcome:
    """The embedded family, the larger pair, and the controller once more in virtual time."""
    plan = _plan()
    bench = Bench(plan, Console(width=180))
    bench.embedded()
    bench.changing()
    bench.random()
    rows = (
        *pair_rows(bench.samples, OURS.name, pair="embedded", engine="real"),
        *pair_rows(bench.synthetic, SYNC.name, pair="71M", engine=SYNTHETIC),
        *trace_rows(verdicts(bench.paces)),
        *virtual_rows(drift(seeds=plan.seeds)),
        bounded(Bar("all waiting engines together, use of a core", "share", 0.1), [bench.idle]),
    )
    detail = Detail(
        embedded=tuple(summaries(bench.samples)),
        parts=tuple(bench.parts),
        random=tuple(summaries(bench.synthetic)),
        random_parts=tuple(bench.dissected),
        ceilings=tuple(bench.ceilings),
        trace=tuple(bench.paces),
        others=bench.others,
        idle=bench.idle,
        resident_gib=bench.resident,
        notes=NOTES,
    )
    draw(detail, RESULTS / "speculation.png")
    bench.explain()
    return Outcome(rows, detail)
