"""Which stage is put forward: only validation counts."""

from troupe.evaluation.candidate import choose
from troupe.evaluation.result import Candidate, ModelFound, OnSplit, WorstDetection


def models(**figures: tuple[float, float]) -> dict[str, ModelFound]:
    """stage=(bits per byte, judge accuracy) on validation text; test figures would choose otherwise."""

    def on(bpb: float, accuracy: float) -> OnSplit:
        judge = WorstDetection.model_construct(accuracy=accuracy, standard_error=0.02)
        return OnSplit.model_construct(bpb=bpb, judge=judge)

    return {
        stage: ModelFound.model_construct(validation=on(bpb, accuracy), test=on(-bpb, 1 - accuracy))
        for stage, (bpb, accuracy) in figures.items()
    }


def test_the_least_often_caught_of_those_near_the_lowest() -> None:
    chosen = choose(models(pretrain=(1.40, 0.80), moe=(1.395, 0.70), adversarial=(1.41, 0.60)), margin=0.01)
    assert chosen.stage == "moe"
    assert "0.700; pretrain 0.800" in chosen.reason


def test_the_margin_itself_is_near_enough() -> None:
    assert choose(models(pretrain=(1.0, 0.8), moe=(1.5, 0.7)), margin=0.5).stage == "moe"


def test_with_no_other_near_prediction_decides_alone() -> None:
    chosen = choose(models(pretrain=(1.40, 0.80), moe=(1.50, 0.70)), margin=0.01)
    assert chosen == Candidate(
        stage="pretrain", reason="no other stage is within 0.01 bits per byte of its 1.400 on validation text"
    )


def test_ties_go_to_the_better_predictor_then_to_the_earlier_stage() -> None:
    assert choose(models(pretrain=(1.405, 0.7), moe=(1.40, 0.7)), margin=0.01).stage == "moe"
    assert choose(models(pretrain=(1.40, 0.7), moe=(1.40, 0.7)), margin=0.01).stage == "pretrain"


def test_what_the_judge_cannot_rank_the_likelihood_ranks() -> None:
    """0.78 and 0.79 lie within one standard error, 0.02."""
    chosen = choose(models(pretrain=(1.405, 0.78), moe=(1.40, 0.79)), margin=0.01)
    assert chosen.stage == "moe"
    assert "cannot rank" in chosen.reason


def test_below_one_half_is_no_better_than_one_half() -> None:
    assert choose(models(pretrain=(1.405, 0.3), moe=(1.40, 0.5)), margin=0.01).stage == "moe"
