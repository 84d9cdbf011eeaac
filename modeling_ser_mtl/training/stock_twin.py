"""
A stock twin of a checkpoint, for services that run no code of a repository, among them the widget of a model page: the
fine-tuned encoder in a class of transformers itself, with an emotion head distilled from the full model.

Distillation needs clips without labels: the head learns the full model's probabilities. A stock head is linear from the
encoder's states to the logits, and its mean over time commutes with its sum over layers. So the encoder runs once per
clip, what is kept is the mean of each layer, and a fit takes seconds.
"""

import copy
import logging
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import (
    AutoModelForAudioClassification,
    BatchFeature,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForSequenceClassification,
)

from ..data.audio import SAMPLING_RATE, load_audio
from ..data.errors import InputError
from ..evaluation.metrics import emotion_metrics
from ..modeling_ser_mtl import SerMtlModel
from ..processing_ser_mtl import SerMtlProcessor

logger = logging.getLogger(__name__)

# The classes of these encoders are alike, so that one stands for all in the types.
StockModel = Wav2Vec2ForSequenceClassification
STOCK_BACKBONES = (
    "wav2vec2",
    "hubert",
    "wavlm",
    "data2vec-audio",
    "sew",
    "unispeech",
    "unispeech-sat",
    "wav2vec2-bert",
    "wav2vec2-conformer",
)
MIN_CLIPS = 10
MIN_SECONDS = 0.1  # four frames: SEW squeezes two into one
# Adam over all clips at once: slow enough that stopping early matters with few clips, fast enough for seconds.
LEARNING_RATE = 3e-4
MAX_STEPS = 5_000
PATIENCE = 50


def stock_twin(model: SerMtlModel) -> StockModel:
    """
    The stock class of the model's backbone with the same backbone weights, layer weights from the mixture of the
    emotion task, and a new projector and classifier.

    Args:
        model ([`SerMtlModel`]): a model with the emotion task.

    Returns:
        `StockModel`: e.g. a `WavLMForSequenceClassification`, in `eval()`.

    Raises:
        InputError: the model has no emotion task, or a backbone without such a class.
    """
    config = copy.deepcopy(model.config.backbone_config)
    if config.model_type not in STOCK_BACKBONES:
        raise InputError(
            f"backbone {config.model_type}: has no stock twin; those that have one: {', '.join(STOCK_BACKBONES)}"
        )
    if "emotion" not in model.config.tasks:
        raise InputError(f"tasks: found {', '.join(model.config.tasks)}; a stock twin needs a model with emotion")
    config.id2label = dict(enumerate(model.config.emotion_labels))
    config.label2id = {name: index for index, name in config.id2label.items()}
    config.use_weighted_layer_sum = True
    config.layerdrop = 0.0  # a dropped layer leaves no state, and the stock sum over layers then fails in training
    config.name_or_path = ""
    twin = AutoModelForAudioClassification.from_config(config)
    twin.base_model.load_state_dict(model.backbone.state_dict())
    with torch.no_grad():
        twin.layer_weights.copy_(model.layer_mixture.weight[model.config.tasks.index("emotion")])
    return twin.eval()


def stock_feature_extractor(processor: SerMtlProcessor) -> Wav2Vec2FeatureExtractor | SeamlessM4TFeatureExtractor:
    """
    The feature extractor of `processor` on its own, without a trace of the processor.

    Raises:
        InputError: a feature extractor that transformers doesn't have.
    """
    stock = type(processor.feature_extractor)
    if stock not in (Wav2Vec2FeatureExtractor, SeamlessM4TFeatureExtractor):
        raise InputError(
            f"feature extractor {stock.__name__}: is this project's own, which a stock model can't run; "
            "a twin needs a model that reads waveforms, or was fine-tuned from a published wav2vec2-bert"
        )
    settings = processor.feature_extractor.to_dict()
    for name in ("auto_map", "processor_class"):
        settings.pop(name, None)
    # The backbone was trained with a mask, whatever its pre-training did.
    return stock.from_dict(settings | {"return_attention_mask": True})


@torch.no_grad()
def pooled_states(twin: StockModel, inputs: BatchFeature) -> Tensor:
    """
    Means over time of the hidden states of one clip, over the frames that the stock class pools.

    Args:
        twin (`StockModel`): a model of [`stock_twin`].
        inputs (`BatchFeature`): one clip from the feature extractor, attention mask included.

    Returns:
        `Tensor` of shape `(num_hidden_layers + 1, hidden_size)`.
    """
    states = torch.stack(twin.base_model(**inputs, output_hidden_states=True).hidden_states)
    mask = twin._get_feature_vector_attention_mask(states.shape[2], inputs["attention_mask"])
    return states[:, mask.bool()].mean(1)


def head_logits(twin: StockModel, states: Tensor) -> Tensor:
    """Emotion logits `(N, C)` of `twin` from pooled `states` `(N, num_hidden_layers + 1, hidden_size)`."""
    mixture = torch.einsum("l,nlh->nh", twin.layer_weights.softmax(-1), states)
    return twin.classifier(twin.projector(mixture))


def kl_divergence(probabilities: Tensor, logits: Tensor) -> Tensor:
    """Mean over clips of KL(`probabilities` || softmax of `logits`) in nats, both `(N, C)`; scalar."""
    return nn.functional.kl_div(logits.log_softmax(-1), probabilities, reduction="batchmean")


def cut_clips(num_clips: int, held_out: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Cuts the clips at random into those that fit the head, those that stop the fit, and those held out for the figures.

    Args:
        num_clips (`int`): number of clips, at least 10.
        held_out (`float`): share of the clips held out, and share of the rest that stops the fit; in (0, .5].
        seed (`int`): seed of the draw.

    Returns:
        `tuple[np.ndarray, np.ndarray, np.ndarray]`: sorted indices of the three, none empty.
    """
    order = np.random.default_rng(seed).permutation(num_clips)
    num_held_out = max(1, round(held_out * num_clips))
    num_stopping = max(1, round(held_out * (num_clips - num_held_out)))
    tested, stopping, fitted = np.split(order, [num_held_out, num_held_out + num_stopping])
    return np.sort(fitted), np.sort(stopping), np.sort(tested)


def fit_head(twin: StockModel, states: Tensor, probabilities: Tensor, fitted: np.ndarray, stopping: np.ndarray) -> None:
    """
    Fits layer weights, projector and classifier of `twin`, in place, to the probabilities of the full model, and keeps
    the step with the lowest divergence on the clips that stop the fit.

    Args:
        twin (`StockModel`): a model of [`stock_twin`]; its backbone is not read.
        states (`Tensor` of shape `(N, num_hidden_layers + 1, hidden_size)`): pooled states.
        probabilities (`Tensor` of shape `(N, C)`): of the full model.
        fitted (`np.ndarray`), stopping (`np.ndarray`): indices of [`cut_clips`].
    """
    head = nn.ModuleList([twin.projector, twin.classifier])
    parameters = [twin.layer_weights, *head.parameters()]
    with torch.no_grad():
        mixture = torch.einsum("l,nlh->nh", twin.layer_weights.softmax(-1), states[fitted])
        mean, std = mixture.mean(0), mixture.std(0)
        std = std.clamp(min=1e-2 * float(std.mean()))
        # It starts as the mean probabilities, whatever the clip: no step that is worse will be kept.
        nn.init.zeros_(twin.classifier.weight)
        twin.classifier.bias.copy_(probabilities[fitted].mean(0).clamp(min=1e-6).log())
    standard = (states - mean) / std  # as their weighted sum, since the weights sum to 1
    train, train_target = standard[fitted], probabilities[fitted]
    stop, stop_target = standard[stopping], probabilities[stopping]

    optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE)
    best, best_step, best_values = float("inf"), 0, [value.detach().clone() for value in parameters]
    progress = tqdm(range(MAX_STEPS), desc="Fitting the head")
    for step in progress:
        with torch.no_grad():
            divergence = float(kl_divergence(stop_target, head_logits(twin, stop)))
        if divergence < best:
            best, best_step, best_values = divergence, step, [value.detach().clone() for value in parameters]
            progress.set_postfix(kl=f"{best:.4f}", refresh=False)
        elif step - best_step >= PATIENCE:
            break
        optimizer.zero_grad()
        kl_divergence(train_target, head_logits(twin, train)).backward()
        optimizer.step()
    progress.close()
    with torch.no_grad():
        for value, best_value in zip(parameters, best_values, strict=True):
            value.copy_(best_value)
        # The projector takes over the standardisation.
        twin.projector.weight.div_(std)
        twin.projector.bias.sub_(twin.projector.weight @ mean)


@torch.no_grad()
def run_clips(
    model: SerMtlModel,
    processor: SerMtlProcessor,
    twin: StockModel,
    feature_extractor: Wav2Vec2FeatureExtractor | SeamlessM4TFeatureExtractor,
    paths: Sequence[str],
    max_seconds: float,
) -> tuple[Tensor, Tensor, list[int]]:
    """
    Both encoders over every clip, one at a time, so that no padding enters.

    Args:
        model ([`SerMtlModel`]), processor ([`SerMtlProcessor`]): the full model.
        twin (`StockModel`): a model of [`stock_twin`].
        feature_extractor (`SequenceFeatureExtractor`): of [`stock_feature_extractor`].
        paths (`Sequence[str]`): audio files; those that can't be used are skipped with a warning.
        max_seconds (`float`): time that is read of each clip, from its start.

    Returns:
        `tuple[Tensor, Tensor, list[int]]`: of the N usable clips the pooled states of the twin
        `(N, num_hidden_layers + 1, hidden_size)`, the emotion probabilities of the full model `(N, C)`, and indices.

    Raises:
        InputError: fewer than 10 clips can be used.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)  # type: ignore[arg-type]
    twin.to(device)  # type: ignore[arg-type]
    states, probabilities, usable, reasons = [], [], [], []
    for index, path in enumerate(tqdm(paths, desc="Running the full model")):
        try:
            waveform = load_audio(path)[: round(max_seconds * SAMPLING_RATE)]
        except InputError as error:
            reasons.append(str(error))
            continue
        if len(waveform) < MIN_SECONDS * SAMPLING_RATE:
            reasons.append(f"{path}: is shorter than {MIN_SECONDS:g} s")
            continue
        inputs = processor(waveform, sampling_rate=SAMPLING_RATE).to(device)
        stock_inputs = feature_extractor(waveform, sampling_rate=SAMPLING_RATE, return_tensors="pt").to(device)
        probabilities.append(model.emotion_probabilities(model(**inputs).logits)[0].cpu())
        states.append(pooled_states(twin, stock_inputs).cpu())
        usable.append(index)
    first = f"; the first that can't: {reasons[0]}" if reasons else ""
    if len(usable) < MIN_CLIPS:
        raise InputError(f"--clips: {len(usable)} clips can be used, at least {MIN_CLIPS} are needed{first}")
    if reasons:
        logger.warning("%d of %d clips can't be used and are skipped%s", len(reasons), len(paths), first)
    twin.cpu()  # type: ignore[call-arg]
    return torch.stack(states), torch.stack(probabilities), usable


@torch.no_grad()
def compare(
    twin: StockModel,
    states: Tensor,
    probabilities: Tensor,
    labels: np.ndarray,
    tested: np.ndarray,
    emotions: Sequence[str],
) -> dict[str, float]:
    """
    How well the twin stands for the full model on the held-out clips.

    Args:
        twin (`StockModel`), states (`Tensor`), probabilities (`Tensor`): as in [`fit_head`].
        labels (`np.ndarray` of shape `(N,)`, int): true emotions, -100 where unknown.
        tested (`np.ndarray`): indices of the held-out clips.
        emotions (`Sequence[str]` of length C): emotion names.

    Returns:
        `dict[str, float]`: `agreement` (share of clips with the same likeliest emotion), `kl` (mean divergence from the
        full model's probabilities in nats), `num_labelled` and, where there are labels, `emotion_macro_f1_full` and
        `emotion_macro_f1_stock`.
    """
    logits, targets, references = head_logits(twin, states[tested]), probabilities[tested], labels[tested]
    figures = {
        "agreement": float((logits.argmax(-1) == targets.argmax(-1)).double().mean()),
        "kl": float(kl_divergence(targets, logits)),
        "num_labelled": int((references != -100).sum()),
    }
    if figures["num_labelled"]:
        for model, scores in (("full", targets), ("stock", logits)):
            metrics = emotion_metrics(scores.numpy(), references, {}, emotions)
            figures[f"emotion_macro_f1_{model}"] = metrics["emotion_macro_f1"]
    return figures
