"""The pages: well formed, complete, self-contained, and safe whatever the labels are."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import contractc
from contractc.bench.cases import read_cases
from contractc.bench.page import bench_page
from contractc.bench.run import Result
from contractc.bench.table import prediction
from contractc.plans import Plan
from contractc.report import plan_page, report
from contractc.report.chart import Line, Point, scatter
from contractc.report.steps import costs_of_steps
from test_bench import result

NETWORKS = Path(__file__).parent.parent / "benchmarks" / "cases" / "networks"
VOID = {"meta", "br", "img", "input", "hr", "link"}


class Strict(HTMLParser):
    """Fails on a tag that is closed wrongly; keeps ids, links and text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        self.tags.add(tag)
        self.ids += [known["id"] or ""] if "id" in known else []
        self.links += [known[name] or "" for name in ("href", "src", "xlink:href") if name in known]
        assert not any(name.startswith("on") for name in known), known
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        self.text += data


def parsed(page: str) -> Strict:
    """Return the parsed page after checking that it is well formed and needs nothing from elsewhere."""
    found = Strict()
    found.feed(page)
    found.close()
    assert not found.open
    assert len(set(found.ids)) == len(found.ids)
    assert all(link.startswith("#") and link[1:] in found.ids for link in found.links)
    assert "script" not in found.tags and "url(" not in page and "@import" not in page
    assert "prefers-color-scheme: dark" in page and 'name="viewport"' in page
    return found


def large_plan() -> Plan:
    (case,) = read_cases(NETWORKS / "rreg3_n1000.json")
    return contractc.plan(case.text, *case.shapes, optimize="greedy")


PLANS: list[Any] = [
    lambda: contractc.plan("ij,jk,kl->il", (3, 4), (4, 5), (5, 6)),
    lambda: contractc.plan("ij->ji", (3, 4)),
    lambda: contractc.plan("ij,jk,kl->il,i", (3, 4), (4, 5), (5, 6)),
    lambda: contractc.plan("a,a,b->", (3,), (3,), (0,)),
    lambda: contractc.plan("ij,jk,kl,li->", *[(60, 60)] * 4, memory_limit=130000),
    lambda: contractc.compile("ij,jk,kl->il", *[(4, 4)] * 3, target="numpy"),
]


@pytest.mark.parametrize("make", PLANS)
def test_page_is_well_formed_and_has_every_step(make: Any) -> None:
    what = make()
    plan = what if isinstance(what, Plan) else what.plan
    found = parsed(plan_page(what))
    count = len(plan.network.tensors)
    for s in range(len(plan.path)):
        assert f"s{count + s}" in found.ids
        assert f"#s{count + s}" in found.links  # the disc in the tree
    assert all(f"%{k}" in found.text for k in range(count + len(plan.path)))


def test_page_of_a_sliced_plan_tells_the_slices() -> None:
    plan = contractc.plan("ij,jk,kl,li->", *[(60, 60)] * 4, memory_limit=130000)
    assert plan.sliced
    text = parsed(plan_page(plan)).text
    assert "Slices" in text and f"= {plan.network.extents[plan.sliced[0]]}" in text


def test_page_of_an_executable_tells_what_each_step_runs_as() -> None:
    executable = contractc.compile("ij,jk,kl->il", (30, 4), (4, 5), (5, 60))
    text = parsed(plan_page(executable)).text
    assert executable.notes and all(note in text for note in executable.notes)


def test_steps_add_up_to_the_plan() -> None:
    for plan in (p for make in PLANS if isinstance(p := make(), Plan)):
        steps = costs_of_steps(plan)
        assert sum(step.seconds for step in steps) == pytest.approx(plan.seconds)
        assert sum(step.flops for step in steps) == plan.flops
        assert max((step.alive for step in steps), default=0) <= plan.peak


def test_page_of_a_thousand_tensors_draws_each_of_them() -> None:
    plan = large_plan()
    page = plan_page(plan)
    found = parsed(page)
    assert len(plan.network.tensors) == 1000 and len([i for i in found.ids if i.startswith("s")]) == 999
    wires = len(re.findall('class="wire"', page))
    assert wires == sum(map(len, plan.path))
    assert len(page) < 2_500_000


def test_labels_cannot_break_out_of_the_page() -> None:
    evil = ["<script>x</script>", '"><img/src=x>', "&lt;&#0;"]
    x = [[1.0, 2.0], [3.0, 4.0]]
    plan = contractc.plan(x, evil[:2], x, evil[1:], [evil[0], evil[2]])
    found = parsed(plan_page(plan))
    assert "img" not in found.tags
    assert evil[0] in found.text and evil[2] in found.text


def test_report_writes_the_page(tmp_path: Path) -> None:
    plan = contractc.plan("ij,jk->ik", (3, 4), (4, 5))
    path = report(plan, tmp_path / "plan.html")
    assert path.read_text(encoding="utf-8") == plan_page(plan)


def test_scatter_draws_every_point_inside() -> None:
    points = [Point(10.0**k, 10.0**-k, "even", f"<{k}>") for k in range(-3, 4)]
    drawn = scatter(points, [Line(((1.0, 1.0), (5.0, 9.0)), "a < b")], ("x", "y"), (str, str))
    places = [(float(x), float(y)) for x, y in re.findall('cx="([0-9.]+)" cy="([0-9.]+)"', drawn)]
    assert len(places) == 7 and all(0 < x < 420 and 0 < y < 330 for x, y in places)
    assert places == sorted(places)
    assert "&lt;-3&gt;" in drawn and "a &lt; b" in drawn
    assert scatter([], [], ("x", "y"), (str, str)) == '<p class="soft">nothing to draw</p>'


def bench_results() -> list[Result]:
    limits = {"copy": 1e10, "read": 1e10, "copy in cache": 1e10, "read in cache": 1e10, "numpy float64": 1e11}
    rows = [result("<b>one</b>", 0.5), result("two", 2.0), result("three", 1.0)]
    made = [Result.from_json({**r.to_json(), "limits": limits}) for r in rows]
    made.append(
        Result.from_json({**made[1].to_json(), "conditions": {"device": "<i>a</i>", "control": True}})
    )
    return [*made, Result(made[0].case, skipped="needs <4 GB")]


def test_bench_page_is_well_formed_and_has_every_case() -> None:
    page = bench_page(bench_results())
    found = parsed(page)
    assert {"r0", "r1", "r2", "c0"} <= set(found.ids)
    for link in ("r0", "r1", "r2", "c0"):
        assert found.links.count(f"#{link}") == 2  # roofline, and prediction against measurement
    assert not {"b", "i"} & {t for t in found.tags if f"<{t}>one" in page or f"<{t}>a" in page}
    assert "needs <4 GB" in found.text and "<b>one</b>" in found.text


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
@pytest.mark.parametrize("width", [375, 1200])
def test_pages_fit_their_window_in_a_browser(width: int, tmp_path: Path) -> None:
    plan = contractc.plan("lwL,lsr,wvst,rvR->LtR", (64, 5, 64), (64, 2, 64), (5, 5, 2, 2), (64, 5, 64))
    pages = {"plan": plan_page(plan), "large": plan_page(large_plan()), "bench": bench_page(bench_results())}
    frames = ""
    for name, page in pages.items():
        (tmp_path / f"{name}.html").write_text(page, encoding="utf-8")
        frames += (
            f'<iframe id="{name}" src="{name}.html" style="width:{width}px;height:900px;border:0"></iframe>'
        )
    code = """onload = () => { document.body.textContent = [...document.querySelectorAll("iframe")].map(f => {
      const d = f.contentDocument; return [f.id, d.documentElement.scrollWidth, d.querySelectorAll("svg circle").length,
      [...d.querySelectorAll("svg")].every(s => s.getBoundingClientRect().height > 0)].join(" "); }).join(";"); }"""
    frame = tmp_path / "frame.html"
    frame.write_text(
        f"<!DOCTYPE html><html><body>{frames}<script>{code}</script></body></html>", encoding="utf-8"
    )
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--dump-dom"]
    done = subprocess.run(
        ["chromium", *flags, f"--user-data-dir={tmp_path / 'profile'}", frame.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    body = re.findall("<body>(.*)</body>", done.stdout, re.DOTALL)[0]
    rows = [row.split(" ") for row in body.split(";")]
    assert [row[0] for row in rows] == list(pages)
    for name, across, circles, drawn in rows:
        assert int(across) <= width, f"{name} is {across} wide in a window of {width}"
        assert int(circles) >= 3 and drawn == "true", name


def test_terms_nobody_would_read_are_counted() -> None:
    many = "abcdefghijklmnop"
    plan = contractc.plan(f"{many},{many[:4]},{many[4:]}->{many}", (2,) * 16, (2,) * 4, (2,) * 12)
    page = parsed(plan_page(plan))
    assert "(16 modes)" in page.text and "f64[16 modes]" in page.text
    assert "a=2, b=2, c=2, d=2, e=2, f=2, g=2, h=2, i=2, j=2, k=2, l=2, m=2" not in page.text
    assert "f64[a=2, b=2, c=2, d=2]" in page.text


def test_a_prediction_without_ranks_says_none() -> None:
    rows = [result("a", 1.0), result("b", 1.0)]
    assert "nan" not in prediction(rows)
