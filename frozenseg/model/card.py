"""The model card of a model folder: what a reader of the folder needs to know, from the spec alone."""

from __future__ import annotations

from torch import nn

from frozenseg.model.spec import ClipReference, ModelSpec, SamReference

_LICENCES = (
    "The decoder's file belongs to whoever trained it. CLIP weights of open_clip are under the licence of their source "
    "(MIT for OpenAI's and LAION's), SAM's and MobileSAM's under Apache-2.0."
)


def model_card(spec: ModelSpec, model: nn.Module) -> str:
    """Markdown text."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    lines = [f"# {spec.name}", ""]
    if spec.notice:
        lines += [f"> **{spec.notice}.**", ""]
    lines += [
        "An open-vocabulary segmentation model: frozen encoders and a trained mask decoder. Use it with",
        '`frozenseg.load("FOLDER")` or `frozenseg predict IMAGE --model FOLDER --vocabulary "cat; sky(stuff)"`.',
        "",
        "| part | what |",
        "|---|---|",
        f"| CLIP | {_encoder(spec.clip)} |",
        f"| SAM | {_encoder(spec.sam) if spec.sam else 'none'} |",
        f"| SAM for masks | {_encoder(spec.mask_sam) if spec.mask_sam else 'the same'} |",
        f"| decoder | {spec.decoder.num_queries} queries, {spec.decoder.num_layers} layers, {_injectors(spec)} |",
        f"| parameters | {trained:,} trained, {frozen:,} frozen |",
        f"| training vocabulary | {_vocabulary(spec)} |",
        "",
        "## Limits",
        "",
        "Scores of categories outside the training vocabulary lean on CLIP and are less sure. Test the model on images",
        "like yours before relying on it.",
        "",
        "## Licences",
        "",
        _LICENCES,
    ]
    if spec.notes:
        lines += ["", "## Notes", "", spec.notes]
    return "\n".join(lines) + "\n"


def _encoder(reference: ClipReference | SamReference) -> str:
    architecture = reference.architecture if isinstance(reference.architecture, str) else reference.architecture.name
    match reference.source:
        case "random":
            return f"{architecture}, **random weights** (seed {reference.location})"
        case "file":
            return f"{architecture}, weights in `{reference.location}`"
        case _:
            return f"{architecture}, weights {reference.location} of {reference.source}"


def _injectors(spec: ModelSpec) -> str:
    decoder = spec.decoder
    if not decoder.query_injector_layers and not decoder.feature_injector_layers:
        return "no injectors (FC-CLIP)"
    query = ", ".join(map(str, decoder.query_injector_layers)) or "no layer"
    feature = ", ".join(map(str, decoder.feature_injector_layers)) or "no layer"
    return f"Query Injector after {query}, Feature Injector before {feature}, SAM memory {decoder.sam_memory}"


def _vocabulary(spec: ModelSpec) -> str:
    vocabulary = spec.training_vocabulary
    if vocabulary is None:
        return "not known: every category counts as unseen"
    names = ", ".join(category.name for category in vocabulary.categories[:12])
    more = f" and {len(vocabulary) - 12} more" if len(vocabulary) > 12 else ""
    return f"{vocabulary.name}, {len(vocabulary)} categories: {names}{more}"
