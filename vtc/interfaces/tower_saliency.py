"""The part of the interface of adapters that reads the saliency of the vision tower."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor
    from transformers import PreTrainedModel


class TowerSaliency:
    """How much attention the tokens of a slice receive in one layer of the vision tower.

    Needed by mergers with `vtc.TokenPruner.uses_saliency` only.
    """

    def saliency_module(self, model: PreTrainedModel) -> str:
        """Return the name of the attention module whose weights are the saliency of patches.

        It is that of the last layer of the vision tower whose output the family uses.

        Raises:
            NotImplementedError: The adapter does not name one.
            ValueError: The tower has no such module.
        """
        raise NotImplementedError(
            f"the adapter {type(self).__name__} does not say which layer's attention is the "
            "saliency of patches: it defines no saliency_module() and token_saliency()"
        )

    def has_class_token(self, model: PreTrainedModel) -> bool:
        """Return whether the first token of the vision tower is a class token.

        If so, the saliency is the attention of its query, else the mean over all queries.
        """
        return False

    def token_saliency(
        self, model: PreTrainedModel, pixels: Mapping[str, Tensor], received: Tensor
    ) -> Tensor:
        """Return the saliency ``[n, M]`` of the tokens of n slices.

        A token made from several patches gets their mean.

        Args:
            received: The attention that the patches receive in `saliency_module`, in its order:
                ``[n, L]``, class token included, or ``[1, patches]`` if the tower packs the slices.

        Raises:
            NotImplementedError: See `saliency_module`.
        """
        raise NotImplementedError(f"the adapter {type(self).__name__} defines no token_saliency()")
