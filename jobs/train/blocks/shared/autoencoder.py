"""Shared representation by reconstruction: what an image or a text says can be read off its vector in the shared space.

Encoder_m of a modality m gives the vector, Decoder_k reconstructs modality k from it. Within a modality the loss is
(1/n) sum ||x - Decoder(Encoder(x))||^2; across modalities, the image is reconstructed from its text's vector and the text from its
image's: Ngiam et al., *Multimodal Deep Learning*, 2011. x is what the encoder reads in, its tokens averaged (each encoder's
`target`), normalised to mean 0 and variance 1, without gradient, so that it cannot shrink to be easy.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from configuration import Recipe


def mean_squared_error(x: Tensor, reconstructed: Tensor) -> Tensor:
    """(1/n) sum ||x - x'||^2 over n rows `[n, width]`, divided by the width, so that 1 is as bad as guessing the mean."""
    return (x - reconstructed).pow(2).sum(-1).mean() / x.shape[-1]


def normalised(target: Tensor) -> Tensor:
    """Each row with mean 0 and variance 1, without gradient."""
    return F.layer_norm(target.detach().float(), target.shape[-1:])


class Autoencoder(nn.Module):
    """The decoders: vectors `[batch, projection]` -> reconstructed images and texts `[batch, target_width]`."""

    def __init__(self, recipe: Recipe, image_width: int, text_width: int):
        super().__init__()
        projection, inner = recipe.model.projection, recipe.model.width

        def decoder(width: int) -> nn.Module:
            return nn.Sequential(nn.Linear(projection, inner), nn.GELU(), nn.Linear(inner, width))

        self.image, self.text = decoder(image_width), decoder(text_width)

    def forward(self, vectors: list[Tensor], image: Tensor, text: Tensor) -> Tensor:
        """The mean error of reconstructing image and text targets from each of the vectors (of the image, the text, or both)."""
        image, text = normalised(image), normalised(text)
        errors = [mean_squared_error(x, decoder(vector)) for vector in vectors
                  for decoder, x in ((self.image, image), (self.text, text))]
        return sum(errors[1:], errors[0]) / len(errors)
