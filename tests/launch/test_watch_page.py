"""The page of `escala watch`: in a real browser, over HTTP to this machine alone, and whatever runs are called."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from launch.cli import escala
from launch.watch.find_runs import find_runs
from launch.watch.page import MOST_POINTS, Page, points_of_a_run, run_values, script_json, write_page
from launch.watch.page_law import Laws, law_of
from launch.watch.page_server import PageServer
from launch.watch.run_view import Reader
from tests.launch.test_watch import plant
from tests.scaling.runs import ladder_rows
from trainer.contract.errors import UserError
from trainer.contract.run_dir import RunDir, Status, append_json

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
EVIL = "<script>document.title='taken'<"
ERROR = "RuntimeError: </script><img src=x onerror=\"document.title='taken'\"> \u2028 `${1}` planted-secret-77aa"


def planned(run_dir: RunDir, parameters: int) -> RunDir:
    counts = {"parameters": {"total": parameters}, "flops_per_token": {"total": 6 * parameters}}
    run_dir.plan.write_text(json.dumps({"steps": 100, "tokens_per_step": 1000, **counts}))
    return run_dir


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MY_SECRET_TOKEN", "planted-secret-77aa")
    runs = tmp_path / "runs"
    costs = {"cost": 2.5, "energy_joules": 7.2e6, "mfu": 0.4, "seconds_left": 60.0}
    for index, name in enumerate(("d_model=64-0f", "d_model=96-1f", "d_model=128-2f")):
        planned(plant(runs, f"ladder/cells/{name}", Status.DONE, 30 + index, **costs), 10**5 * (index + 1))
    failed = planned(plant(runs, f"ladder/cells/{EVIL}", Status.FAILED, 20, off=4.5), 9 * 10**5)
    failed.record_event("failed", error=ERROR)
    append_json(runs / "ladder" / "ledger.jsonl", *ladder_rows(5))
    return runs


def page_of(runs: Path, seconds: float = 1.0) -> Page:
    return Page(Reader(lambda: find_runs(runs), points_of_a_run(4), early=True), "my runs", seconds)


def data_in(script: str) -> dict:
    found = re.fullmatch(r"escala\((.*)\);\n", script, flags=re.S)
    assert found is not None
    return json.loads(found[1])


@given(
    st.recursive(
        st.text() | st.integers() | st.none(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_data_stay_data_in_a_script_of_a_page(values: object) -> None:
    text = script_json(values)
    assert not set(text) & set("<>&\u2028\u2029")
    assert json.loads(text) == json.loads(json.dumps(values).encode("utf-8", "replace"))


def test_the_page_shows_states_costs_and_curves_without_secrets(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "page"
    said = CliRunner().invoke(
        escala, ["watch", "--runs", str(root), "--html", str(out), "--once"], catch_exceptions=False
    )
    assert said.output.startswith(f"{out / 'index.html'} (")
    html, news = (out / "index.html").read_text(), (out / "data.js").read_text()
    assert news in html and "planted-secret" not in html + said.output
    assert not re.search(r"""(src|href)\s*=\s*["']?\w+:""", html.replace(news, "")), "nothing from elsewhere"
    data = data_in(news)
    runs = {run["name"]: run for run in data["runs"]}
    assert len(runs) == 4 and data["cost"] == "1.1 GPU-hours, price 7.50, 6 kWh"
    done = runs["d_model=96-1f"]
    assert (done["state"], done["params"], done["cost"], done["steps"]) == ("done", 2 * 10**5, 2.5, 100)
    assert done["tokens"][0] == 1000 and done["tokens"][-1] == 31_000, "steps x tokens of a step"
    assert done["losses"] == sorted(done["losses"], reverse=True) and len(done["losses"]) == len(done["tokens"])
    assert runs[EVIL]["why"].startswith("RuntimeError: </script>") and "***" in runs[EVIL]["why"]
    (law,) = data["laws"]
    assert [len(law[key]) for key in ("points", "curves")] == [5, 1] and "The fit of L = " in " ".join(law["lines"])


def test_a_page_of_somebody_else_is_not_overwritten(root: Path, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<html>my thesis</html>")
    with pytest.raises(UserError, match=r"index.html was not written by `escala watch`"):
        write_page(page_of(root), tmp_path)
    assert (tmp_path / "index.html").read_text() == "<html>my thesis</html>"
    assert write_page(page_of(root), tmp_path / "a") == write_page(page_of(root), tmp_path / "a")


def test_curves_are_thinned_so_that_any_number_of_runs_stays_small(tmp_path: Path) -> None:
    assert [points_of_a_run(n) for n in (0, 1, 200, 1000)] == [240, 240, 100, 24]
    assert all(points_of_a_run(n) * n <= MOST_POINTS for n in range(1, 800))
    run_dir = planned(plant(tmp_path, "long", Status.DONE, 5_000), 10)
    (view,) = Reader(lambda: [run_dir.root], 100).views()
    values = run_values(view)
    assert 50 <= len(view.points) <= 101 and len(script_json(values)) < 2_500


def test_the_law_says_what_it_cannot_tell(tmp_path: Path) -> None:
    ledger = tmp_path / "s" / "ledger.jsonl"
    assert Laws().of([]) == []
    append_json(tmp_path / "one.jsonl", ladder_rows(1)[0])
    law = law_of(tmp_path / "one.jsonl")
    assert law["lines"] == ["1 finished cells; a law needs 3 at least"] and law["curves"] == []
    ledger.parent.mkdir()
    ledger.write_bytes(b"\xff\n{\n")
    law = law_of(ledger)
    assert law["sweep"] == "s" and law["points"] == [] and law["lines"]


def test_a_law_is_fitted_in_the_background_and_anew_when_the_ledger_grows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, laws, may = tmp_path / "s" / "ledger.jsonl", Laws(), threading.Event()

    def fitted(path: Path) -> dict:
        assert may.wait(60)
        return {"sweep": path.parent.name, "points": path.read_text().split()}

    monkeypatch.setattr("launch.watch.page_law.law_of", fitted)
    ledger.parent.mkdir()
    ledger.write_text("a\n")
    assert laws.of([ledger])[0]["stale"], "nobody waits for it"
    may.set()
    laws._worker.join(60)
    assert laws.of([ledger]) == [{"sweep": "s", "points": ["a"], "stale": False}]
    may.clear()
    ledger.write_text("a\nb\nc\n")
    assert laws.of([ledger]) == [{"sweep": "s", "points": ["a"], "stale": True}], "the law of before, meanwhile"
    may.set()
    assert laws.of([ledger], wait=True)[0]["points"] == ["a", "b", "c"]


@pytest.fixture
def server(root: Path) -> Iterator[PageServer]:
    with PageServer(page_of(root, seconds=0.0), 0) as found:
        thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield found
        found.shutdown()
        thread.join()


def ask(server: PageServer, path: str, method: str = "GET", **headers: str) -> tuple[int, str, http.client.HTTPMessage]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read().decode(), answer.headers


def test_the_page_is_served_to_this_machine_alone(server: PageServer, root: Path) -> None:
    assert server.server_address[0] == "127.0.0.1"
    code, html, headers = ask(server, "/")
    assert code == 200 and "escala({" in html and "default-src 'none'" in headers["Content-Security-Policy"]
    assert ask(server, "/", Host="rebound.example:80")[0] == 403
    assert ask(server, "/../../etc/passwd")[0] == ask(server, "/runs")[0] == 404
    assert ask(server, "/", method="POST")[0] == 501
    RunDir(root / "ladder" / "cells" / "d_model=64-0f").write_status(Status.PREEMPTED)
    states = [run["state"] for run in data_in(ask(server, "/data.js?1")[1])["runs"]]
    assert states.count("preempted") == 1, "the news are new"
    with pytest.raises(UserError, match=f"port {server.server_port} cannot be had"):
        PageServer(server.page, server.server_port)
    shutil.rmtree(root)
    assert ask(server, "/data.js")[0] == 503


def test_options_without_effect_are_refused(root: Path, tmp_path: Path) -> None:
    for words in (["--sort", "loss"], ["--json"], ["--serve"]):
        said = CliRunner().invoke(escala, ["watch", "--runs", str(root), "--html", str(tmp_path), *words])
        assert isinstance(said.exception, UserError) and "has no effect" in str(said.exception), words


@pytest.fixture
def browse(tmp_path: Path) -> Callable[[str], str]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here to open the page with")

    def dom(address: str) -> str:
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=9000", "--dump-dom"]
        profile = f"--user-data-dir={tmp_path / 'profile'}"
        done = subprocess.run(
            [CHROMIUM, *options, profile, "--window-size=1200,1000", address], capture_output=True, timeout=120
        )
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        return done.stdout.decode()

    return dom


ACTS = """
<script>
const before = document.querySelector("#curves path.curve").getAttribute("d");
const choose = (id, value) => { $(id).value = value; $(id).dispatchEvent(new Event("change")); };
const press = (id, key) => $(id).dispatchEvent(new KeyboardEvent("keydown", { key }));
const said = {};
choose("x", "flops");
said.moved = document.querySelector("#curves path.curve").getAttribute("d") !== before;
said.axis = [...document.querySelectorAll("#curves text")].map(node => node.textContent);
press("curves", "ArrowRight"); press("curves", "ArrowRight");
said.tip = document.querySelector("#curves .tip").textContent;
press("lawchart", "ArrowRight");
said.cell = document.querySelector("#lawchart .tip").textContent;
const spot = document.querySelector("#lawchart circle.cell").getBoundingClientRect();
$("lawchart").onpointermove({ clientX: spot.x + 4, clientY: spot.y + 4 });
escala({ ...data, cost: "9 GPU-hours" });
said.kept = !document.querySelector("#lawchart .tip").hidden;
[...document.querySelectorAll("#heads button")].find(node => node.textContent.startsWith("parameters")).click();
said.first = document.querySelector("#rows td").textContent;
document.querySelector("#states .failed").click();
said.failed = document.querySelectorAll("#rows tr").length;
document.querySelector("#states button").click();
const note = element("pre", { id: "said" }, JSON.stringify(said));
document.body.append(note);
</script>
"""


def test_in_a_browser_it_draws_curves_law_and_states_and_brings_news(
    browse: Callable[[str], str], root: Path, tmp_path: Path
) -> None:
    out, page = tmp_path / "page", page_of(root)
    path = write_page(page, out, wait=True)
    planned(plant(root, "ladder/cells/later", Status.RUNNING, 5), 10**6)  # known to data.js alone
    (out / "data.js").write_text(page.data(wait=True))
    path.write_text(path.read_text().replace("</body>", f"{ACTS}</body>"))
    dom = browse(path.as_uri())
    assert "<title>my runs</title>" in dom and "taken'\">" not in dom.split("<script>")[0], "no name was obeyed"
    said = json.loads(re.search(r'<pre id="said">(.*?)</pre>', dom)[1].replace("&lt;", "<").replace("&gt;", ">"))
    assert said["moved"] and "training FLOPs" in said["axis"]
    assert "parameters" in said["tip"] and "FLOPs" in said["tip"] and "perplexity" in said["cell"]
    assert said["first"].startswith(EVIL), "sorted by size, the name is text"
    assert said["failed"] == 1 and said["kept"], "what is pointed at stays so when news come"
    shown = dom[: dom.index("<script>")]
    assert len(re.findall(r'class="curve', shown)) == 5 and "later" in shown, "the news came"
    assert len(re.findall(r'class="fit"', shown)) == len(re.findall(r'class="band"', shown)) == 1
    assert len(re.findall(r'class="cell"', shown)) == 5 and "The fit of L = " in shown
    assert "4 finished" not in shown and "+4.5 σ" in shown and "GPU-h" in shown


def test_in_a_browser_the_served_page_works_under_its_policy(browse: Callable[[str], str], server: PageServer) -> None:
    dom = browse(server.url)
    shown = dom[: dom.index("<script>")]
    assert len(re.findall(r'class="curve', shown)) == 4 and "looks again every" in shown
