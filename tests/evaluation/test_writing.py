"""Who writes what: the same places for all, each the way its bundle writes."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import torch

from tests.evaluation.scene import REPETITIONS, TEXTS, scene
from troupe import resampling
from troupe.decoding import Decoding, generate
from troupe.evaluation.realism import Windows
from troupe.evaluation.windows import as_it_writes, candidates
from troupe.evaluation.writing import KNOWN_BAD, REAL, SPLITS, Task, Writing, written


def everything(scene: Writing, threads: int = 2) -> dict[Task, Windows]:
    with ThreadPoolExecutor(threads) as pool:
        return scene.windows(pool, lambda: None)


def test_all_write_at_the_same_places_beside_the_same_real_text() -> None:
    found = everything(scene())
    for split in SPLITS:
        for repetition in range(REPETITIONS):
            places = scene().places(split, repetition)
            for name in ("plain", "resampled", KNOWN_BAD):
                windows = found[Task(name, split, repetition)]
                assert windows.texts[:TEXTS] == places.real()
                assert windows.place.tolist() == [*places.starts, *places.starts]
            assert found[Task(REAL, split, repetition)].texts == places.real()
    assert found[Task("plain", "test", 0)].texts != found[Task("plain", "test", 1)].texts


def test_a_bundle_with_a_sampler_writes_with_it() -> None:
    """The same model with and without: other texts, and those that `resampling.write` gives."""
    found = everything(scene(temperatures=[]))
    plain, resampled = (written(found[Task(name, "test", 0)]) for name in ("plain", "resampled"))
    assert plain != resampled
    ids_BT, seeds = torch.arange(12).reshape(3, 4), [1, 2, 3]
    for name, bundle in scene().bundles.items():
        drawn = as_it_writes(bundle, 0.7)(bundle.model, ids_BT, 6, seeds)
        expected = resampling.write(bundle, ids_BT, 6, Decoding(temperature=0.7), seeds)
        assert torch.equal(drawn, expected)
        alone = generate(bundle.model, ids_BT, 6, Decoding(temperature=0.7), seeds)
        assert torch.equal(drawn, alone) == (name == "plain")


def test_only_models_write_at_other_temperatures_and_at_1_all_is_as_without_them() -> None:
    with_curve, without = everything(scene()), everything(scene(temperatures=[]))
    assert {(task.writer, task.split, task.repetition) for task in with_curve.keys() - without.keys()} == {
        ("plain", "test", 0), ("resampled", "test", 0),
    }  # fmt: skip
    assert {task: found.texts for task, found in without.items()} == {
        task: found.texts for task, found in with_curve.items() if task.temperature == 1
    }
    cold, warm = (written(with_curve[Task("plain", "test", 0, t)]) for t in (0.5, 1.0))
    assert cold != warm


def test_texts_do_not_hang_on_who_else_writes_nor_on_how_many_do_at_a_time() -> None:
    whole = scene(temperatures=[])
    alone = replace(whole, bundles={"plain": whole.bundles["plain"]})
    found, found_alone = everything(whole), everything(alone)
    assert {task: windows.texts for task, windows in everything(whole, threads=4).items()} == {
        task: windows.texts for task, windows in found.items()
    }
    assert all(found[task].texts == windows.texts for task, windows in found_alone.items())


def test_what_takes_longest_is_begun_first() -> None:
    assert [task.writer for task in scene().tasks()[:2]] == ["resampled", "plain"]
    assert candidates(scene().bundles["resampled"]) == 4
