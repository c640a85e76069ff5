"""Caption scores (BLEU-1..4, CIDEr of pycocoevalcap) and retrieval recall, on captions reduced by `data.words`."""

import contextlib
import io

import numpy as np
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider

from data import words


def caption_scores(captions, references):
    """Scores in percent of `captions[i]` against the sentences `references[i]`."""
    found = {i: [" ".join(words(caption)) or "empty"] for i, caption in enumerate(captions)}
    wanted = {i: [" ".join(words(reference)) for reference in group] for i, group in enumerate(references)}
    with contextlib.redirect_stdout(io.StringIO()):
        bleu = Bleu(4).compute_score(wanted, found)[0]
        cider = Cider().compute_score(wanted, found)[0]
    return {f"BLEU-{n + 1}": 100 * value for n, value in enumerate(bleu)} | {"CIDEr": 100 * float(cider)}


def recalls(images, texts, owners, ranks=(1, 5, 10)):
    """Recall in percent. `owners[t]` is the row of `images` that `texts[t]` describes; rows are L2-normalised.

    Image to text: an image counts if any of its own texts is among the k nearest.
    """
    scores, owners = images @ texts.T, np.asarray(owners)
    best_own = np.where(owners[None, :] == np.arange(len(images))[:, None], scores, -np.inf).max(1)
    to_text = (scores > best_own[:, None]).sum(1)
    to_image = (scores > scores[owners, np.arange(len(texts))][None, :]).sum(0)
    return ({f"i2t R@{k}": 100 * float((to_text < k).mean()) for k in ranks}
            | {f"t2i R@{k}": 100 * float((to_image < k).mean()) for k in ranks})
