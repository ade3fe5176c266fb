"""From rows to what a model is run on: token ids, and what its frozen layers make of them, each computed once."""

from promptgraft.objectives.backbones import FAMILIES
from promptgraft.objectives.caching import Activations, StageKey
from promptgraft.objectives.prompting import EncodedRow, PromptedModel
from promptgraft.objectives.trial.resources import Resources
from promptgraft.objectives.trial.trial_data import first_epoch


class RowEncoder:
    """Encodes the rows of a cycle; what another trial has encoded comes from the store of stages.

    Args:
        resources: What the cycle uses.
    """

    def __init__(self, resources: Resources) -> None:
        self._resources = resources

    def encode(self, model: PromptedModel, part: str, order_seed: int | None = None) -> list[EncodedRow]:
        """Return the token ids of a part's rows, and see that its frozen layers' activations are known.

        Args:
            model: The model that will be run on them.
            part: `source`, `target`, `validation` or `unlabelled`.
            order_seed: Seed of the batches, for rows that are trained on: activations are laid out in the order in
                which the rows are drawn. By length if None.
        """
        encoded = self.token_ids(model, part)
        if model.activations is not None:
            rows = [row.ids for row in encoded]
            if part == "target" and self._resources.tasks.self_labelled:  # Laid out as where they are unlabelled.
                self.encode(model, "unlabelled")
                rows = rows[: -self._resources.tasks.self_labelled]
            by_length = sorted(range(len(rows)), key=lambda index: len(rows[index]))
            order = by_length if order_seed is None else first_epoch(len(rows), order_seed)
            model.activations.add(rows, order)
        return encoded

    def token_ids(self, model: PromptedModel, part: str) -> list[EncodedRow]:
        """Return the token ids of a part's rows."""
        resources, candidate = self._resources, model.candidate
        rows = resources.tasks.rows(part, candidate)
        shown = resources.demonstrations.get(candidate, part, model.seed)
        if not model.stores_ids:
            model.encode(resources.tasks.target.labelled)  # So that all workers put the same images into one stage.
            return model.encode(rows)
        length = model.scorer.answer_tokens
        key = StageKey.of(
            {
                "stage": "encoded",
                "special": "never in rows",  # In what earlier versions stored they were.
                "backbone": resources.backbone.weights_hash,
                "max_tokens": resources.spec.backbone.max_tokens,
                "family": resources.spec.backbone.family,
                "template": model.template.text,
                "masks": model.scorer.masks,
                "rows": resources.tasks.hash_of(part, candidate),
                **({"answers": [length, resources.spec.backbone.languages]} if length else {}),
                **({"demonstrations": shown.content} if shown else {}),
                **({"words": "first token"} if model.words else {}),
                **({"prior": [candidate.prior, list(resources.tasks.labels)]} if model.prior else {}),
            }
        )
        return EncodedRow.unpack(resources.stages.get(key, lambda: EncodedRow.pack(model.encode(rows, shown))))

    def share_activations(self, model: PromptedModel) -> None:
        """Let a model take from the store what its frozen layers make of the rows, if nothing trained stands below."""
        reuse = model.reuse()
        if reuse is None:
            return
        resources, candidate = self._resources, model.candidate
        always_frozen = resources.spec.frozen_on(candidate.source)

        def weights_below(depth: int) -> dict[str, object]:
            trained = candidate.source_steps > 0 and depth > always_frozen
            return {
                "backbone": resources.backbone.weights_hash,
                "numerics": resources.spec.backbone.numerics,
                "source": resources.source_key(candidate) if trained else None,
                "device": resources.backbone.device.type,
            }

        on_the_way = always_frozen if FAMILIES[resources.spec.backbone.family].in_parts else 0
        model.activations = Activations(resources.stages, resources.backbone.layers, reuse, on_the_way, weights_below)
