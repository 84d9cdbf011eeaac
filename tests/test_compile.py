"""`torch.compile` in inference: one graph without a break, and the lengths of each batch its own."""

import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

SCRIPT = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "benchmarks" / "batch_invariance.py"))
small_model, random_clips, padded_batch = SCRIPT["small_model"], SCRIPT["random_clips"], SCRIPT["padded_batch"]
NAMES = ("wav2vec2, group norm", "wav2vec2, layer norm", "wavlm, group norm", "wav2vec2-bert")
OUTPUTS = ("logits", "gender_logits", "speaker_embeddings", "ctc_logits")
pytestmark = pytest.mark.filterwarnings("ignore:Dynamo detected a call:UserWarning")


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def assert_compiled_equals_eager(name: str, batches: list[tuple[int, ...]], **options: object) -> None:
    """Clips of these lengths in milliseconds, a batch after the other, through one compiled model."""
    model = small_model(name)
    inputs = [padded_batch(model, random_clips(model, lengths)) for lengths in batches]
    with torch.no_grad():
        expected = [model(**batch) for batch in inputs]  # the first call of transformers has breaks of its own
        compiled = torch.compile(model, fullgraph=True, **options)
        for batch, eager in zip(inputs, expected, strict=True):
            output = compiled(**batch)
            for key in OUTPUTS:
                torch.testing.assert_close(output[key], eager[key], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_compiled_model_is_one_graph_and_takes_other_lengths_of_the_same_shape(name) -> None:
    # The same padded length: the graph of the first batch runs again.
    assert_compiled_equals_eager(name, [(610, 430, 310), (610, 250, 550)], backend="eager")


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("name", NAMES)
def test_a_compiled_model_takes_batches_of_other_sizes(name, backend) -> None:
    batches = [(610, 430, 310), (490, 620), (310,), (610, 430, 310)]
    assert_compiled_equals_eager(name, batches, backend=backend, dynamic=True)
