"""``explain.py`` on the photos that people have, and on what is no photo and no run."""

import csv
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import explain as script
from tests.pipeline import Finished, finished_run, picture, refused, run_explain
from tests.report.synthetic import make_bank
from vrx.bank import ConceptBank
from vrx.commands import explain
from vrx.errors import VRXError
from vrx.explain.explainer import Explainer

pytestmark = pytest.mark.slow
SIDEWAYS = 6  # EXIF orientation: the camera was turned


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return finished_run(tmp_path_factory.getbasetemp() / "finished")


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six photos of every kind, and two files that are none."""
    folder = tmp_path_factory.mktemp("album")
    photo = picture(0, 900)
    photo.save(folder / "plain.jpg")
    photo.save(folder / "plain.png")
    exif = Image.Exif()
    exif[0x0112] = SIDEWAYS
    photo.transpose(Image.Transpose.ROTATE_90).save(folder / "turned.png", exif=exif)
    photo.convert("L").save(folder / "grey.png")
    photo.convert("CMYK").save(folder / "print.jpg")
    (folder / "more").mkdir()
    rgba = photo.copy()
    rgba.putalpha(180)
    rgba.save(folder / "more" / "clear.png")
    (folder / "broken.jpg").write_bytes((folder / "plain.jpg").read_bytes()[:200])
    (folder / "empty.jpg").touch()
    (folder / "notes.txt").write_text("no photo")
    return folder


@pytest.fixture(scope="module")
def explained(finished: Finished, album: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """What the command wrote and said about the album."""
    out = tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as patch:
        lines: list[str] = []
        warned: list[str] = []
        patch.setattr(explain.log, "info", lambda text, *args: lines.append(text % args))
        patch.setattr(explain.log, "warning", lambda text, *args: warned.append(text % args))
        run_explain(f"run={finished.folder}", f"images={album}", f"out={out}", "label=circus")
    return out, "\n".join(lines), "\n".join(warned)


def test_every_photo_of_a_folder_gets_its_page(explained: tuple[Path, str, str]) -> None:
    out, said, _ = explained
    pages = sorted(str(p.parent.relative_to(out)) for p in out.rglob("explanation.html"))
    assert pages == ["grey", "more/clear", "plain.jpg", "plain.png", "print", "turned"]
    for folder in pages:
        content = json.loads((out / folder / "explanation.json").read_text())
        assert content["sentence"] in said and content["trust_line"] in said
        assert str(out / folder / "explanation.html") in said
        assert content["true_class"] == 0
        assert (out / folder / "explanation.png").stat().st_size > 10_000


def test_only_the_formats_asked_for_are_written(finished: Finished, album: Path, tmp_path: Path) -> None:
    run_explain(f"run={finished.folder}", f"images={album}/plain.png", f"out={tmp_path}", "formats=[json]")
    written = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.*"))
    assert written == ["explanations.csv", "explanations.jsonl", "plain/explanation.json"]


def lines(out: Path) -> list[dict[str, str]]:
    """The table of a folder of explanations; the CSV says the same as the JSON lines."""
    with (out / "explanations.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    found = [json.loads(line) for line in (out / "explanations.jsonl").read_text().splitlines()]
    assert [{k: "" if v is None else str(v) for k, v in line.items()} for line in found] == rows
    return found


def test_the_table_says_what_the_pages_say(explained: tuple[Path, str, str]) -> None:
    out = explained[0]
    table = {line["folder"]: line for line in lines(out)}
    assert len(table) == 6 and "more/clear" in table
    for folder, line in table.items():
        content = json.loads((out / folder / "explanation.json").read_text())
        assert line["predicted"] == content["predicted"] and line["label"] == "circus"
        assert line["probability"] == pytest.approx(max(content["probabilities"]), abs=1e-4)
        assert line["grn_probability"] == pytest.approx(max(content["grn_probabilities"]), abs=1e-4)
        assert content["trust_line"].startswith(f"Trust: {line['trust']}. ")
        assert content["sentence"].endswith(f"{line['why']} {line['why_not']}")
        assert line["spearman"] == (None if content["trust"] is None else pytest.approx(content["trust"], abs=1e-4))
        assert Path(line["photo"]).with_suffix("").name in folder


@pytest.fixture
def three(tmp_path: Path, finished: Finished, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[str], list[str]]:
    """A folder of three photos, the command that explains them, and which photos it has asked about."""
    folder, asked, ask = tmp_path / "three", list[str](), Explainer.explain
    folder.mkdir()
    for name in "abc":
        picture(0, ord(name)).save(folder / f"{name}.png")

    def explain_it(self: Explainer, image: str, *args: object) -> object:
        asked.append(Path(image).stem)
        return ask(self, image, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Explainer, "explain", explain_it)
    return folder, [f"run={finished.folder}", f"images={folder}", f"out={tmp_path}/out", "formats=[json]"], asked


def test_what_is_explained_already_is_skipped(three: tuple[Path, list[str], list[str]], tmp_path: Path) -> None:
    (folder, command, asked), out = three, tmp_path / "out"
    run_explain(*command)
    before = {line["folder"]: line for line in lines(out)}
    asked.clear()
    run_explain(*command)
    assert not asked and {line["folder"]: line for line in lines(out)} == before

    picture(1, 5).save(folder / "a.png")  # another photo under the same name
    (out / "c" / "explanation.json").unlink()
    run_explain(*command)
    after = {line["folder"]: line for line in lines(out)}
    assert asked == ["a", "c"] and len(lines(out)) == 3
    assert after["b"] == before["b"] and after["c"] == before["c"] and after["a"]["content"] != before["a"]["content"]

    asked.clear()
    run_explain(*command, "label=depot")  # other words
    assert asked == ["a", "b", "c"] and {line["label"] for line in lines(out)} == {"depot"}
    run_explain(*command[:1], f"images={folder}/b.png", *command[2:])
    assert {line["folder"]: line["label"] for line in lines(out)} == {"a": "depot", "b": None, "c": "depot"}


def test_names_make_new_lines(three: tuple[Path, list[str], list[str]], named: tuple[Path, ConceptBank, int]) -> None:
    (_, command, asked), (run, _, concept) = three, named
    command[0] = f"run={run}"
    run_explain(*command)
    (run / "concepts" / "names.yaml").write_text(f"circus: {{{concept + 1}: big top}}")
    run_explain(*command)
    assert asked == ["a", "b", "c"] * 2


def test_a_damaged_last_line_is_dropped(
    three: tuple[Path, list[str], list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (_, command, asked), out = three, tmp_path / "out"
    run_explain(*command)
    whole = lines(out)
    for name in ("explanations.jsonl", "explanations.csv"):
        content = (out / name).read_bytes()
        (out / name).write_bytes(content[:-40])
    asked.clear()
    run_explain(*command)
    assert asked == ["c"] and lines(out) == whole
    assert "explanations.jsonl, line 3 is damaged" in capsys.readouterr().out


def test_an_interrupted_folder_goes_on(
    three: tuple[Path, list[str], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (_, command, asked), out = three, tmp_path / "out"
    with monkeypatch.context() as patch:
        write = explain.write_explanation

        def write_or_stop(folder: Path, *args: object) -> None:
            if folder.name == "b":
                raise KeyboardInterrupt
            write(folder, *args)  # type: ignore[arg-type]

        patch.setattr(explain, "write_explanation", write_or_stop)
        with pytest.raises(SystemExit) as exit_:
            run_explain(*command)
    assert exit_.value.code == 130 and [line["folder"] for line in lines(out)] == ["a"]
    run_explain(*command)
    assert asked == ["a", "b", "b", "c"] and [line["folder"] for line in lines(out)] == ["a", "b", "c"]


def test_a_turned_photo_is_explained_upright(explained: tuple[Path, str, str]) -> None:
    out = explained[0]
    upright, turned = (
        json.loads((out / name / "explanation.json").read_text())["probabilities"] for name in ("plain.png", "turned")
    )
    assert np.allclose(upright, turned, atol=1e-5)


def test_what_cannot_be_read_is_skipped_with_its_name(explained: tuple[Path, str, str]) -> None:
    warned = explained[2]
    assert "broken.jpg" in warned and "empty.jpg" in warned and "Skipped 2 of 8 photos" in warned


def test_a_run_that_there_is_not(album: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, script, f"run={tmp_path}/none", f"images={album}")
    assert f"{tmp_path}/none is not a finished run" in line and "train.py" in line


def test_what_must_be_given(album: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "run=<run folder>" in refused(capsys, script, f"images={album}")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["images=/no/photos"], ["/no/photos", ".jpg"]),
        (["label=circuss"], ["label='circuss'", "nearest: circus"]),
        (["method=shap"], ["method='shap'", "knockout and gradient"]),
        (["device=tpu"], ["device='tpu'", "cpu or cuda"]),
        (["formats=[html,svg]"], ["'svg'", "html, png, pdf and json"]),
    ],
)
def test_bad_options_are_one_line(
    overrides: list[str],
    said: list[str],
    finished: Finished,
    album: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [f"run={finished.folder}", f"images={album}", f"out={tmp_path}/out"]
    line = refused(capsys, script, *given, *overrides)
    for words in said:
        assert words in line
    assert not (tmp_path / "out").exists()


def test_a_folder_of_broken_photos_is_an_error(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "one.jpg").write_bytes(b"no photo")
    line = refused(capsys, script, f"run={finished.folder}", f"images={tmp_path}/broken", f"out={tmp_path}/out")
    assert "one.jpg" in line and "none of the 1 photos" in line
    assert not (tmp_path / "out").exists()


def test_parts_of_different_runs_are_refused(
    finished: Finished, album: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mixed = tmp_path / "mixed"
    shutil.copytree(finished.folder, mixed)
    bank = json.loads((mixed / "concepts" / "bank.json").read_text())
    bank["settings"]["classifier"] = "another one"
    (mixed / "concepts" / "bank.json").write_text(json.dumps(bank))
    line = refused(capsys, script, f"run={mixed}", f"images={album}", f"out={tmp_path}/out")
    assert "different runs" in line and str(mixed) in line


@pytest.mark.parametrize(
    "lost", ["checkpoints/grn.safetensors", "checkpoints/classifier.safetensors", "concepts/bank.json"]
)
def test_a_run_that_lost_a_part_is_refused(
    lost: str, finished: Finished, album: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(finished.folder, damaged)
    (damaged / lost).unlink()
    line = refused(capsys, script, f"run={damaged}", f"images={album}", f"out={tmp_path}/out")
    assert str(damaged) in line


def test_a_run_that_was_interrupted_is_refused(
    finished: Finished, album: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unfinished = tmp_path / "unfinished"
    shutil.copytree(finished.folder, unfinished)
    (unfinished / "explainer.json").unlink()
    assert "not a finished run" in refused(capsys, script, f"run={unfinished}", f"images={album}")


def test_two_runs_explain_the_same_photos_on_one_page(finished: Finished, album: Path, tmp_path: Path) -> None:
    runs = f"compare={finished.folder},{finished.folder}"
    run_explain(runs, f"images={album}/more", f"out={tmp_path}")
    page = (tmp_path / "comparison.html").read_text()
    assert page.count("<article") == 2 and "overlap by 100%" in page
    assert [p.name for p in tmp_path.iterdir()] == ["comparison.html"]


def test_runs_that_cannot_be_compared(
    album: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "two run folders" in refused(capsys, script, "compare=one", f"images={album}")
    banks = iter([make_bank(3), make_bank(2)])
    whole = SimpleNamespace(hypotheses=None)
    monkeypatch.setattr(explain, "open_run", lambda cfg: SimpleNamespace(bank=next(banks), builder=whole))
    line = refused(capsys, script, "compare=one,two", f"images={album}", f"out={tmp_path}/out")
    assert "one tells fire engine, ambulance and school bus apart" in line and "compare runs of one task" in line
    assert not (tmp_path / "out").exists()


def listed(monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    """What ``names`` lists."""
    lines: list[str] = []
    monkeypatch.setattr(explain.log, "info", lambda text, *args: lines.append(text % args if args else text))
    run_explain(*words)
    return "\n".join(lines)


@pytest.fixture
def named(finished: Finished, tmp_path: Path) -> tuple[Path, ConceptBank, int]:
    """A copy of the run, its bank, and the place of a concept of the class circus that exists."""
    run = tmp_path / "named"
    shutil.copytree(finished.folder, run)
    bank = ConceptBank.load(run / "concepts")
    assert bank.class_names[0] == "circus" and bank.present[0].any()
    return run, bank, int(bank.present[0].argmax())


def test_names_lists_every_concept_and_how_to_name_them(
    named: tuple[Path, ConceptBank, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, bank, concept = named
    for old in run.glob("concepts/gallery_*"):
        old.unlink()
    said = listed(monkeypatch, "names", f"run={run}")
    assert said.count("no name") == bank.present.sum() and f"0 of {bank.present.sum()} concepts have a name" in said
    for name in bank.class_names:
        gallery = run / "concepts" / f"gallery_{name}.png"
        assert f"{name}    {gallery}" in said and gallery.stat().st_size > 5000
    assert f"{run}/concepts/names.yaml" in said
    example = said.rpartition("such as  ")[2]
    (run / "concepts" / "names.yaml").write_text(example)
    again = listed(monkeypatch, f"run={run}", "names")
    assert again.count("a name\n") == 1 and again.count("no name") == bank.present.sum() - 1
    assert f"  {concept + 1}  importance" in again


def test_names_are_in_every_explanation_from_then_on(
    named: tuple[Path, ConceptBank, int], album: Path, tmp_path: Path
) -> None:
    run, bank, concept = named
    (run / "concepts" / "names.yaml").write_text(f"circus: {{{concept + 1}: big top}}")
    run_explain(f"run={run}", f"images={album}/plain.png", f"out={tmp_path}/out", "formats=[json]")
    content = json.loads((tmp_path / "out" / "plain" / "explanation.json").read_text())
    assert content["names"][0][concept] == "big top" and content["present"] == bank.present.tolist()
    assert sum(bool(name) for names in content["names"] for name in names) == 1


def test_names_that_do_not_fit_stop_the_command(
    named: tuple[Path, ConceptBank, int], album: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = named[0]
    (run / "concepts" / "names.yaml").write_text("circuss: {1: big top}")
    for words in (["names"], [f"images={album}"]):
        line = refused(capsys, script, f"run={run}", *words)
        assert "names.yaml, line 1" in line and "'circuss'" in line and "nearest: circus" in line


def test_names_need_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "run=<run folder> names" in refused(capsys, script, "names")
    assert "No concept bank" in refused(capsys, script, "names", f"run={tmp_path}")


def test_hidden_files_and_other_suffixes_are_no_photos(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", ".hidden.jpg", "c.txt"):
        (tmp_path / name).touch()
    assert [p.name for p in explain.find_images(tmp_path)] == ["a.png", "b.JPG"]
    with pytest.raises(VRXError, match="no photo there"):
        explain.find_images(tmp_path / "none")
