"""The committed family: whole, small, loadable, and able to answer."""

import json
import shutil
import subprocess
import sys
from random import Random

import pytest

from cluster.errors import ModelCorrupt, UnknownModel
from experts.zoo import grade, manifest, measure
from experts.zoo.catalog import MODELS, WEIGHTS, model_path
from experts.zoo.grade import Grades, Row
from experts.zoo.measure import Score
from experts.zoo.models import load
from experts.zoo.tasks.base import Task, user
from experts.zoo.tasks.catalog import DOMAINS, draw
from experts.zoo.tokenizer import load_tokenizer


@pytest.fixture
def copy(tmp_path):
    root = tmp_path / "weights"
    shutil.copytree(WEIGHTS, root)
    return root


def test_the_committed_files_match_their_manifest_and_stay_small():
    manifest.verify(WEIGHTS)
    assert manifest.size(WEIGHTS) <= 16_000_000


@pytest.mark.parametrize("name", MODELS)
def test_every_model_has_a_complete_checkpoint(name):
    files = {path.name for path in model_path(name).iterdir()}
    assert {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "chat_template.jinja",
    } <= files
    assert json.loads((WEIGHTS / name / "config.json").read_text())["dtype"] == "bfloat16"


def test_asking_for_paths_and_prompts_imports_no_tensor_library():
    code = "import sys, experts.zoo.catalog, experts.zoo.prompts; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_unknown_model_is_refused_with_the_known_ones():
    with pytest.raises(UnknownModel, match="general, draft, code"):
        model_path("gpt")


def test_one_flipped_byte_is_found_and_named(copy):
    target = copy / "draft" / "model.safetensors"
    content = bytearray(target.read_bytes())
    content[1000] ^= 1
    target.write_bytes(content)
    with pytest.raises(ModelCorrupt, match=r"draft/model\.safetensors"):
        manifest.verify(copy)
    with pytest.raises(ModelCorrupt):
        manifest.verify(copy, model="draft")
    manifest.verify(copy, model="general")


def test_missing_and_added_files_and_a_missing_manifest_are_found(copy):
    (copy / "code" / "config.json").unlink()
    (copy / "tools" / "extra.json").write_text("{}")
    with pytest.raises(ModelCorrupt, match=r"code/config\.json, tools/extra\.json"):
        manifest.verify(copy)
    (copy / manifest.NAME).unlink()
    with pytest.raises(ModelCorrupt, match="missing"):
        manifest.verify(copy)


def test_the_verifier_answers_known_prompts():
    tokenizer, model = load_tokenizer(WEIGHTS / "general"), load(WEIGHTS / "general").eval()
    questions = {
        "What is 12 + 25?": "12 + 25 = 37",
        "Write a Python function that keeps only the even numbers.": "def keep_even(numbers)",
        "Hello!": "How can I help you?",
    }
    tasks = [Task("chat", ("k",), (user(question),), "") for question in questions]
    answers = measure.answer(model, tokenizer, tasks)
    for answer, part in zip(answers, questions.values(), strict=True):
        assert part in answer.text


@pytest.mark.parametrize(("domain", "least"), [("code", 0.7), ("tools", 0.5), ("grounded", 0.5)])
def test_the_verifier_is_right_on_most_held_out_tasks(domain, least):
    tokenizer, model = load_tokenizer(WEIGHTS / "general"), load(WEIGHTS / "general").eval()
    tasks = [draw(domain, Random(i), "test") for i in range(24)]
    score = measure.score(model, tokenizer, measure.answer(model, tokenizer, tasks))
    assert score.exact >= least
    assert score.parses is None or score.parses >= 0.9


def test_tokens_per_step_counts_accepted_runs_and_the_verifiers_own_token():
    yes, no = True, False
    assert measure.tokens_per_step([[no, *[yes] * 10]], 4) == 5.0
    assert measure.tokens_per_step([[yes, *[no] * 10]], 4) == 1.0
    assert measure.tokens_per_step([[no, yes, no, yes, no]], 4) == 2.0


def test_grades_have_the_projects_form_and_say_what_holds():
    formed = {"code", "tools", "records"}
    perfect = {domain: Score(1.0, 1.0 if domain in formed else None, None, 0.1) for domain in DOMAINS}
    worse = dict.fromkeys(DOMAINS, Score(0.5, None, None, 0.3))
    steps = {domain: {4: 1.5 if domain == "records" else 4.5, 8: 6.0} for domain in DOMAINS}
    grades = Grades({"general": perfect, "code": worse, "tools": worse}, steps, [1.5, 2.0], 10_000_000)
    report = json.loads(json.dumps(grade.report(grades)))
    assert set(report) == {"machine", "commit", "rows"}
    assert all(
        set(row) == {"bar", "ours", "must", "unit", "higher_is_better", "holds", "engine"} for row in report["rows"]
    )
    holds = {row["bar"]: row["holds"] for row in report["rows"]}
    assert holds["code exact"] is True
    assert holds["chat exact"] is None
    assert holds["code specialist: exact gained on code"] is False
    assert holds["code specialist: loss added elsewhere"] is True
    assert holds["draft on records over fourth-best"] is True


def test_a_row_holds_at_its_bar_in_both_directions():
    assert Row("a", 0.8, 0.8, "share").holds
    assert not Row("a", 0.79, 0.8, "share").holds
    assert Row("a", 10, 16, "bytes", higher_is_better=False).holds
    assert Row("a", 10, None, "bytes").holds is None
