"""Small image classifiers, built from scratch in the Hugging Face format.

All three take pixel values and give logits, know their features (`model.features(x)`, what the last layer reads), and
come back from disk by `palimpsest.models.load(path, task="image")`. Every model is seeded, and building one leaves the
global random state as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

import torch.nn.functional as F
import transformers
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageClassification, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput

from palimpsest.models.language import seeded

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh}
NORMS = (None, "batch", "layer")


class MLPConfig(PretrainedConfig):
    """The configuration of `MLPForImageClassification`."""

    model_type = "palimpsest-mlp"

    def __init__(
        self,
        in_features: int = 64,
        hidden: Sequence[int] = (128, 128),
        activation: str = "relu",
        norm: str | None = None,
        dropout: float = 0.0,
        **kwargs,
    ) -> None:
        self.in_features = in_features
        self.hidden = list(hidden)
        self.activation = activation
        self.norm = norm
        self.dropout = dropout
        super().__init__(**kwargs)


class CNNConfig(PretrainedConfig):
    """The configuration of `CNNForImageClassification`."""

    model_type = "palimpsest-cnn"

    def __init__(
        self,
        channels: int = 1,
        width: int = 16,
        image_size: int = 8,
        norm: str | None = None,
        dropout: float = 0.0,
        feature_dim: int = 64,
        **kwargs,
    ) -> None:
        self.channels = channels
        self.width = width
        self.image_size = image_size
        self.norm = norm
        self.dropout = dropout
        self.feature_dim = feature_dim
        super().__init__(**kwargs)


class _Classifier(PreTrainedModel):
    """Features, then one linear layer: `body` and `head` are the subclass's."""

    main_input_name = "pixel_values"
    body: nn.Sequential
    head: nn.Linear

    def _init_weights(self, module: nn.Module) -> None:
        """PyTorch's own initialisation, which `from_pretrained` needs to be able to repeat."""
        if isinstance(module, nn.Linear | nn.Conv2d | nn.BatchNorm1d | nn.BatchNorm2d | nn.LayerNorm | nn.GroupNorm):
            module.reset_parameters()

    def features(self, pixel_values: Float[Tensor, "batch *image"]) -> Float[Tensor, "batch features"]:
        """What the last layer reads."""
        return self.body(self._checked(pixel_values))

    def forward(
        self, pixel_values: Float[Tensor, "batch *image"], labels: Int[Tensor, " batch"] | None = None, **kwargs
    ) -> ImageClassifierOutput:
        """Logits [batch, classes]; the mean cross-entropy where labels are given; the features as `hidden_states`."""
        return _output(self.features(pixel_values), self.head, labels)

    def _checked(self, pixel_values: Tensor) -> Tensor:
        raise NotImplementedError


class MLPForImageClassification(_Classifier):
    """Fully connected layers on the flattened image."""

    config_class = MLPConfig

    def __init__(self, config: MLPConfig) -> None:
        super().__init__(config)
        layers: list[nn.Module] = []
        for d_in, d_out in pairwise([config.in_features, *config.hidden]):
            layers += [nn.Linear(d_in, d_out)]
            layers += {None: [], "batch": [nn.BatchNorm1d(d_out)], "layer": [nn.LayerNorm(d_out)]}[config.norm]
            layers += [ACTIVATIONS[config.activation](), nn.Dropout(config.dropout)]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear([config.in_features, *config.hidden][-1], config.num_labels)
        self.post_init()

    def _checked(self, pixel_values: Tensor) -> Tensor:
        if pixel_values.ndim < 2 or prod(pixel_values.shape[1:]) != self.config.in_features:
            raise ValueError(
                f"pixel_values must have {self.config.in_features} values an image, got shape"
                f" {list(pixel_values.shape)}"
            )
        return pixel_values.flatten(1)


class CNNForImageClassification(_Classifier):
    """Three convolutions around one pooling, then a hidden layer on all positions.

    Positions are kept up to a 4 x 4 grid (larger images are averaged down to it): averaging them away, as deep networks
    do, would cost a network this shallow its sense of where things are.
    """

    config_class = CNNConfig

    def __init__(self, config: CNNConfig) -> None:
        super().__init__(config)
        width = config.width
        grid = min(4, config.image_size // 2)

        def convolution(c_in: int, c_out: int) -> list[nn.Module]:
            # One group is layer norm over channels and positions, for any image size.
            norm = {None: [], "batch": [nn.BatchNorm2d(c_out)], "layer": [nn.GroupNorm(1, c_out)]}[config.norm]
            return [nn.Conv2d(c_in, c_out, 3, padding=1), *norm, nn.ReLU()]

        self.body = nn.Sequential(
            *convolution(config.channels, width),
            *convolution(width, width),
            nn.MaxPool2d(2),
            *convolution(width, 2 * width),
            *([nn.AdaptiveAvgPool2d(grid)] if config.image_size // 2 > grid else []),
            nn.Flatten(),
            nn.Dropout(config.dropout),
            nn.Linear(2 * width * grid**2, config.feature_dim),
            nn.ReLU(),
        )
        self.head = nn.Linear(config.feature_dim, config.num_labels)
        self.post_init()

    def _checked(self, pixel_values: Tensor) -> Tensor:
        return _check_images(pixel_values, self.config.channels, self.config.image_size)


class ViTForImageClassification(transformers.ViTForImageClassification):
    """transformers' ViT, with `features`; any other code loads it as the ViT that it is."""

    def features(
        self, pixel_values: Float[Tensor, "batch channels height width"], **kwargs
    ) -> Float[Tensor, "batch features"]:
        """The class token behind the last block, which the last layer reads."""
        if not kwargs.get("interpolate_pos_encoding"):
            _check_images(pixel_values, self.config.num_channels, self.config.image_size)
        return self.vit(pixel_values, **kwargs).last_hidden_state[:, 0]

    def forward(
        self,
        pixel_values: Float[Tensor, "batch channels height width"],
        labels: Int[Tensor, " batch"] | None = None,
        **kwargs,
    ) -> ImageClassifierOutput:
        """Logits [batch, classes]; the mean cross-entropy where labels are given; the features as `hidden_states`."""
        return _output(self.features(pixel_values, **kwargs), self.classifier, labels)


AutoConfig.register(MLPConfig.model_type, MLPConfig, exist_ok=True)
AutoConfig.register(CNNConfig.model_type, CNNConfig, exist_ok=True)
AutoModelForImageClassification.register(MLPConfig, MLPForImageClassification, exist_ok=True)
AutoModelForImageClassification.register(CNNConfig, CNNForImageClassification, exist_ok=True)


def mlp(
    in_features: int = 64,
    classes: int = 10,
    hidden: Sequence[int] = (128, 128),
    activation: str = "relu",
    norm: str | None = None,
    dropout: float = 0.0,
    seed: int = 0,
) -> MLPForImageClassification:
    """Fully connected layers on images [batch, channels, height, width], flattened, or on vectors [batch, values].

    Args:
        in_features: the number of values an image has, channels x height x width.
        classes: the number of classes.
        hidden: the widths of the hidden layers; none makes a linear classifier, whose features are the input.
        activation: "relu", "gelu", "silu" or "tanh".
        norm: "batch", "layer" or None, before each activation.
        dropout: the dropout rate after each activation.
        seed: seeds the weights.

    Returns:
        The classifier on the CPU, in training mode.

    Raises:
        ValueError: a size is not positive, or a name is unknown.

    Example:
        >>> import torch
        >>> model = mlp(in_features=64, classes=10, hidden=(32,))
        >>> model(torch.zeros(5, 1, 8, 8)).logits.shape, model.features(torch.zeros(5, 64)).shape
        (torch.Size([5, 10]), torch.Size([5, 32]))
    """
    sizes = {f"hidden[{i}]": width for i, width in enumerate(hidden)}
    _check({"in_features": in_features, "classes": classes, **sizes}, norm, dropout)
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    config = MLPConfig(in_features, hidden, activation, norm, dropout, num_labels=classes)
    return seeded(seed, lambda: MLPForImageClassification(config))


def cnn(
    channels: int = 1,
    classes: int = 10,
    width: int = 16,
    image_size: int = 8,
    norm: str | None = None,
    dropout: float = 0.0,
    feature_dim: int = 64,
    seed: int = 0,
) -> CNNForImageClassification:
    """Convolution, convolution, max pooling, convolution, and a hidden layer on a grid of at most 4 x 4 positions.

    Args:
        channels: the images' channels.
        classes: the number of classes.
        width: the channels of the first two convolutions; the third has twice as many.
        image_size: the images' height and width in pixels, at least 2.
        norm: "batch", "layer" (over channels and positions) or None, after each convolution.
        dropout: the dropout rate before the hidden layer.
        feature_dim: the width of the hidden layer, whose values are the features.
        seed: seeds the weights.

    Returns:
        The classifier on the CPU, in training mode.

    Raises:
        ValueError: a size is not positive, or a name is unknown.

    Example:
        >>> import torch
        >>> model = cnn(channels=3, image_size=32)
        >>> model(torch.zeros(2, 3, 32, 32)).logits.shape, model.features(torch.zeros(2, 3, 32, 32)).shape
        (torch.Size([2, 10]), torch.Size([2, 64]))
    """
    sizes = {"channels": channels, "classes": classes, "width": width, "feature_dim": feature_dim}
    _check(sizes, norm, dropout)
    if image_size < 2:
        raise ValueError(f"image_size must be at least 2, got {image_size}")
    config = CNNConfig(channels, width, image_size, norm, dropout, feature_dim, num_labels=classes)
    return seeded(seed, lambda: CNNForImageClassification(config))


def vit(
    image_size: int = 8,
    patch_size: int = 2,
    d_model: int = 64,
    n_layers: int = 2,
    n_heads: int = 4,
    classes: int = 10,
    channels: int = 1,
    seed: int = 0,
) -> ViTForImageClassification:
    """A transformer on patches of the image (ViT).

    Args:
        image_size: the images' height and width in pixels, a multiple of `patch_size`.
        patch_size: a patch's height and width in pixels.
        d_model: the width of the residual stream, a multiple of `n_heads`.
        n_layers: the number of blocks.
        n_heads: the number of attention heads.
        classes: the number of classes.
        channels: the images' channels.
        seed: seeds the weights.

    Returns:
        The classifier on the CPU, in training mode.

    Raises:
        ValueError: a size is not positive or does not divide the other.

    Example:
        >>> import torch
        >>> model = vit()
        >>> model(torch.zeros(2, 1, 8, 8)).logits.shape, model.features(torch.zeros(2, 1, 8, 8)).shape
        (torch.Size([2, 10]), torch.Size([2, 64]))

    Source: Dosovitskiy et al. (2021), arXiv 2010.11929.
    """
    sizes = {"image_size": image_size, "patch_size": patch_size, "d_model": d_model, "n_layers": n_layers}
    _check({**sizes, "n_heads": n_heads, "classes": classes, "channels": channels}, None, 0.0)
    if image_size % patch_size or d_model % n_heads:
        raise ValueError(
            f"image_size must be a multiple of patch_size and d_model of n_heads, got {image_size} and {patch_size},"
            f" {d_model} and {n_heads}"
        )
    config = transformers.ViTConfig(
        image_size=image_size,
        patch_size=patch_size,
        hidden_size=d_model,
        num_hidden_layers=n_layers,
        num_attention_heads=n_heads,
        intermediate_size=4 * d_model,
        num_channels=channels,
        num_labels=classes,
        attn_implementation="sdpa",
    )
    return seeded(seed, lambda: ViTForImageClassification(config))


def _output(features: Tensor, head: nn.Module, labels: Tensor | None) -> ImageClassifierOutput:
    logits = head(features)
    loss = None if labels is None else F.cross_entropy(logits, labels)
    return ImageClassifierOutput(loss=loss, logits=logits, hidden_states=(features,))


def _check_images(pixel_values: Tensor, channels: int, size: int | Sequence[int]) -> Tensor:
    height, width = (size, size) if isinstance(size, int) else size
    if pixel_values.ndim != 4 or pixel_values.shape[1:] != (channels, height, width):
        raise ValueError(
            f"pixel_values must have shape [batch, {channels}, {height}, {width}], got {list(pixel_values.shape)}"
        )
    return pixel_values


def _check(sizes: dict[str, int], norm: str | None, dropout: float) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")
    if norm not in NORMS:
        raise ValueError(f"norm must be 'batch', 'layer' or None, got {norm!r}")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must lie in [0, 1), got {dropout}")
