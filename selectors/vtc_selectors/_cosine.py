"""Cosines of frame embeddings, and the relevance of each frame to the query."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vtc_selectors._checks import check_embeddings

CHUNK = 256
"""Number of frames converted to float64 at a time: 1 MiB at d = 512."""
_MIN_NORM = 1e-12
"""Lower bound on vector norms before a division, as in `F.normalize`."""
ONE_THREAD = 2**15
"""Number of elements from which torch runs a CPU operation in several threads."""


def rows_of_piece(rows: Tensor) -> int:
    """Return the number of rows of ``[N, d]`` to process at a time.

    On the CPU the number is small enough for torch to stay in the calling thread. For operations
    of a few microseconds, synchronising threads costs more than it saves: milliseconds on a busy
    machine.
    """
    if rows.device.type != "cpu":
        return CHUNK
    return min(CHUNK, max(1, (ONE_THREAD - 1) // max(1, rows.shape[1])))


def piece_memory(dim: float) -> float:
    """Return the number of float64 elements of a piece of frames and one copy of it."""
    return 2 * min(CHUNK * dim, ONE_THREAD)


def pieces(rows: Tensor) -> tuple[Tensor, ...]:
    """Split ``[N, d]`` into pieces of `rows_of_piece` rows."""
    return torch.split(rows, rows_of_piece(rows))


def unit(vectors: Tensor) -> Tensor:
    """Scale vectors ``[..., d]`` to length one, in float64; zero vectors stay zero.

    In float64 the keyframes do not depend on autocast, TF32 or the order of additions in a matrix
    product. Apple's GPUs have no float64 and use float32.
    """
    exact = torch.float32 if vectors.device.type == "mps" else torch.float64
    return F.normalize(vectors.to(exact), dim=-1)


def unit_rows(embeddings: Tensor, frames: Tensor) -> Tensor:
    """Return the unit vectors ``[n, d]`` of frames ``[n]``, in float64; see `unit`."""
    if embeddings.device.type != "cpu":
        return unit(embeddings.index_select(0, frames))
    vectors = unit(embeddings[:0]).new_empty(len(frames), embeddings.shape[1])
    start = 0
    for piece in torch.split(frames, rows_of_piece(embeddings)):
        vectors[start : start + len(piece)] = unit(embeddings.index_select(0, piece))
        start += len(piece)
    return vectors


def query_relevance(selector: str, embeddings: Tensor, query: Tensor | None) -> Tensor:
    """Return the cosine of each frame and the query, Eq. 2 of ViLAMP.

    Args:
        selector: Registered name of the selector, for messages.
        embeddings: ``[N, d]``, floating point, of any norm.
        query: ``[d]``, floating point, of any norm.

    Returns:
        ``[N]`` float32 in [-1, 1]; 0 for zero vectors. Equal frames get equal values.

    Raises:
        ValueError: The query is missing, a shape is wrong, or a number is not finite.
        TypeError: The embeddings or the query are not floating point.
    """
    check_embeddings(selector, embeddings)
    if query is None:
        raise ValueError(
            f"selector '{selector}' needs a query, got None: ask a question, pass vtc_query=... "
            "to generate, or choose a selector without a query, such as 'uniform'"
        )
    if not (embeddings.is_floating_point() and query.is_floating_point()):
        raise TypeError(
            f"selector '{selector}': expected floating-point embeddings and query, got "
            f"{embeddings.dtype} and {query.dtype}"
        )
    dim = embeddings.shape[1]
    if dim == 0 or query.shape != (dim,):
        raise ValueError(
            f"selector '{selector}': expected embeddings [N, d] and a query [d] of one frame "
            f"encoder, d >= 1, got {list(embeddings.shape)} and {list(query.shape)}"
        )
    relevance = cosines(embeddings, query)
    _check_finite(selector, relevance, query)
    return relevance


def cosines(embeddings: Tensor, vector: Tensor) -> Tensor:
    """Return the cosine of each row ``[N, d]`` and ``vector`` ``[d]``: ``[N]`` float32 in [-1, 1].

    Computed in float64 and rounded, so that equal rows have equal cosines on every device.
    """
    direction = unit(vector)
    # A matrix-vector product may round equal rows differently, which breaks ties at random. A sum
    # along each row does not.
    rows = []
    for piece in pieces(embeddings):
        vectors = piece.to(direction.dtype, copy=True)
        lengths = torch.linalg.vector_norm(vectors, dim=-1).clamp(min=_MIN_NORM)
        rows.append((vectors.mul_(direction).sum(-1) / lengths).float())
    return torch.cat(rows)


def changes(embeddings: Tensor) -> Tensor:
    """Return the cosine distance ``[N - 1]`` float32 of each frame to the next; 0 for copies."""
    blocks = [
        (unit(before) * unit(after)).sum(-1)
        for before, after in zip(pieces(embeddings[:-1]), pieces(embeddings[1:]), strict=True)
    ]
    # Round to float32 first: in float64 the cosine of two copies may differ from 1.
    return 1 - torch.cat(blocks).float()


def check_frames(selector: str, embeddings: Tensor) -> None:
    """Check the embeddings passed to a selector that takes no query.

    Raises:
        ValueError: The embeddings are not ``[N, d]`` with N, d >= 1, or a number is not finite.
        TypeError: The embeddings are not floating point.
    """
    check_embeddings(selector, embeddings)
    if not embeddings.is_floating_point():
        raise TypeError(
            f"selector '{selector}': expected floating-point embeddings, got {embeddings.dtype}"
        )
    if embeddings.shape[1] == 0:
        raise ValueError(
            f"selector '{selector}': expected embeddings [N, d] of a frame encoder, d >= 1, got "
            f"{list(embeddings.shape)}"
        )
    rows = [piece.isfinite().all(-1) for piece in pieces(embeddings)]
    finite = torch.cat(rows)
    if not finite.all():
        raise _not_finite(selector, f"the embedding of frame {int(finite.int().argmin())}")


def min_max(relevance: Tensor) -> Tensor:
    """Scale relevance ``[N]`` to [0, 1] in float64; all 0 if all frames are equally relevant."""
    low, high = relevance.double().aminmax()
    return (relevance.double() - low) / (high - low if high > low else 1.0)


def most_relevant_first(relevance: Tensor) -> Tensor:
    """Return frame indices ``[N]`` by descending relevance ``[N]``; ties go to the earlier."""
    return relevance.argsort(descending=True, stable=True)


def _check_finite(selector: str, relevance: Tensor, query: Tensor) -> None:
    finite = relevance.isfinite()
    if finite.all():
        return
    if not query.isfinite().all():
        vector = "the query embedding"
    else:
        vector = f"the embedding of frame {int(finite.int().argmin())}"
    raise _not_finite(selector, vector)


def _not_finite(selector: str, vector: str) -> ValueError:
    return ValueError(
        f"selector '{selector}': expected finite numbers, but {vector} holds NaN or infinity; "
        "run the frame encoder in bfloat16 or float32"
    )
