"""What the golden files of models with one graph for images and texts (CLIP, SigLIP) have in common."""

import pathlib
import shutil
import tempfile

import numpy as np
import onnxruntime
import torch
from optimum.exporters.onnx import main_export

import common

METADATA = ["config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"]
# One for each photograph, of different lengths; the last but one is longer than a context of 24 tokens.
TEXTS = [
    "an astronaut",
    "A river, deep in a red canyon",
    "the face of a cat",
    "Café: one   cup of black coffee on a table",
    "two horses'll run",
    "a hot-air balloon in 1999",
    "five pancakes with syrup, butter, berries, honey, nuts, sugar, cream & more syrup: the table is not big enough for all of "
    "them, and the guests wait outside of the house",
    "rocket",
]


def export(model, processor, folder):
    """The joint graph as `optimum-cli export onnx --task feature-extraction` writes it."""
    common.emptied(folder)
    with tempfile.TemporaryDirectory() as work:
        source, target = pathlib.Path(work, "pytorch"), pathlib.Path(work, "onnx")
        model.save_pretrained(source)
        processor.save_pretrained(source)
        main_export(str(source), str(target), task="feature-extraction", do_validation=False)
        print(folder.name, sorted(path.name for path in target.iterdir()))
        for name in ["model.onnx", *METADATA]:
            shutil.copy(target / name, folder)


def copy_metadata(source, target):
    for name in METADATA:
        shutil.copy(source / name, target)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def run(folder, name, given):
    """A graph's outputs by name; `given` may hold more than its inputs."""
    session = onnxruntime.InferenceSession(folder / name)
    feed = {value.name: given[value.name] for value in session.get_inputs()}
    return dict(zip([value.name for value in session.get_outputs()], session.run(None, feed)))


def check(folder, given, images, texts, logits):
    """The graphs of a directory on the whole batch, against PyTorch one image and one text at a time."""
    if (folder / "model.onnx").exists():
        found = run(folder, "model.onnx", given)
        np.testing.assert_allclose(found["logits_per_image"], logits, atol=1e-4)
        found = found["image_embeds"], found["text_embeds"]
    else:
        found = (run(folder, "vision_model.onnx", given)["image_embeds"], run(folder, "text_model.onnx", given)["text_embeds"])
        lengths = np.linalg.norm(found[0], axis=-1)
        assert abs(lengths - 1).min() > 0.1, f"embeddings of the towers have length one: {lengths}"
    for kind, one, other in [("images", unit(found[0]), images), ("texts", unit(found[1]), texts)]:
        print(f"  {folder.name}: {kind} differ from PyTorch by {abs(one - other).max():.1e} at most")
        np.testing.assert_allclose(one, other, atol=1e-5)


@torch.no_grad()
def write(name, model, processor, padding, folders):
    """The golden file, once every directory of `folders` agrees with it. `padding` is how the processor batches texts."""
    pictures = common.photos()
    # One at a time, so that nothing is padded that the model does not always pad.
    rows = [processor(images=picture, text=text, return_tensors="pt", **padding) for picture, text in zip(pictures, TEXTS)]
    images = unit(torch.cat([model.get_image_features(pixel_values=row.pixel_values) for row in rows]).numpy())
    texts = unit(torch.cat([model.get_text_features(**{key: value for key, value in row.items() if key != "pixel_values"})
                            for row in rows]).numpy())
    batch = processor(images=pictures, text=TEXTS, return_tensors="pt", **padding)
    logits = model(**batch).logits_per_image.numpy()
    for kind, embeddings in [("images", images), ("texts", texts)]:
        alike = embeddings @ embeddings.T - 2 * np.eye(len(embeddings))
        print(f"  cosine of two different {kind} at most {alike.max():.3f}; tokens {batch.input_ids.shape}")
        assert alike.max() < 0.99, f"two {kind} have almost one embedding, so a test could not tell them apart"
    for folder in folders:
        check(folder, {key: value.numpy() for key, value in batch.items()}, images, texts, logits)
    common.write(name, {
        "pixels": common.probes([row.pixel_values[0] for row in rows]), "image_embeddings": images.tolist(), "texts": TEXTS,
        "text_embeddings": texts.tolist(), "logits_per_image": logits.tolist()})
