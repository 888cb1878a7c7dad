"""Who writes what: the same places for all, each with random numbers of its own."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from tests.evaluation.scene import REPETITIONS, TEXTS, scene
from troupe.evaluation.realism import Windows
from troupe.evaluation.writing import KNOWN_BAD, REAL, SPLITS, Task, Writing, written


def everything(scene: Writing, threads: int = 2) -> dict[Task, Windows]:
    with ThreadPoolExecutor(threads) as pool:
        return scene.windows(pool, lambda: None)


def test_all_write_at_the_same_places_beside_the_same_real_text() -> None:
    found = everything(scene())
    for split in SPLITS:
        for repetition in range(REPETITIONS):
            places = scene().places(split, repetition)
            for name in ("plain", "other", KNOWN_BAD):
                windows = found[Task(name, split, repetition)]
                assert windows.texts[:TEXTS] == places.real()
                assert windows.place.tolist() == [*places.starts, *places.starts]
            assert found[Task(REAL, split, repetition)].texts == places.real()
    assert found[Task("plain", "test", 0)].texts != found[Task("plain", "test", 1)].texts


def test_only_models_write_at_other_temperatures_and_at_1_all_is_as_without_them() -> None:
    with_curve, without = everything(scene()), everything(scene(temperatures=[]))
    assert {(task.writer, task.split, task.repetition) for task in with_curve.keys() - without.keys()} == {
        ("plain", "test", 0), ("other", "test", 0),
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
