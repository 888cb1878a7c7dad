"""Which experts a sentence takes, against the router's own formula."""

import torch

from tests.evaluation.test_embedded import EXPERTS, bundle, model
from troupe.data.tokenizer import ByteTokenizer
from troupe.evaluation.routing import MOST, route
from troupe.models.switchhead import expert_usage, switchhead_layers

TEXT = "Oh. It was far too long a sentence to be drawn here, so it is not. Its end is\nnear. And more."


def test_it_takes_the_first_sentence_that_fits_and_else_the_beginning() -> None:
    network = bundle(model(EXPERTS["sigmoid"], 256, block_size=20), ByteTokenizer())
    found = route(network, "Oh. " + "x" * 30 + ". Near\nby now. And so it ends.")
    assert found.sentence == "".join(found.tokens) == "Near\nby now."
    assert route(network, "x" * 100).sentence == "x" * MOST
    short = bundle(model(EXPERTS["sigmoid"], 256, block_size=5), ByteTokenizer())
    assert route(short, TEXT).sentence == "Its e", "as much as the model can read"


def test_the_first_layer_s_experts_are_those_of_the_highest_scores() -> None:
    """By hand from the token embeddings: score = W norm(x), gate = sigmoid, the two highest in order."""
    network = model(EXPERTS["sigmoid"], 256, block_size=20, positions="rotary")
    found = route(bundle(network, ByteTokenizer()), "A b c d e.")
    x_ND = network.blocks[0].attention_norm(network.token_embedding.weight[list(b"A b c d e.")])
    scores = (x_ND @ switchhead_layers(network)[0].router.weight.T).view(10, 2, 3, 4)
    gates, experts = scores.sigmoid().sort(dim=-1, descending=True)
    for r, router in enumerate(("values", "outputs")):
        for head in range(3):
            took = found.layers[0][router][head]
            assert [one.experts for one in took] == experts[:, r, head, :2].tolist()
            expected = gates[:, r, head, :2]
            assert torch.allclose(torch.tensor([one.gates for one in took]), expected, atol=0.5e-4 + 1e-6)


def test_as_often_as_usage_says() -> None:
    network = model(EXPERTS["softmax"], 256, block_size=20)
    ids = list(b"Some words.")
    found, load = (
        route(bundle(network, ByteTokenizer()), "Some words."),
        expert_usage(network, torch.tensor([ids])).load,
    )
    for layer, routers in enumerate(found.layers):
        for r, router in enumerate(("values", "outputs")):
            for head, took in enumerate(routers[router]):
                counted = torch.bincount(torch.tensor([one.experts[0] for one in took]), minlength=3)
                assert torch.allclose(counted / len(ids), load[layer, r, head])


def test_a_model_without_experts_has_no_layers() -> None:
    found = route(bundle(model(vocab_size=256, block_size=20), ByteTokenizer()), TEXT)
    assert (found.layers, found.n_expert) == ([], 0)
