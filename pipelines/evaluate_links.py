"""Score links (pre point, post point) against true links.

It reads the tables of evaluate.links, prints precision, recall and F1 under the rule of the config,
of the links and of the connections between neurons, and writes link_scores.json and link_scores.png
into predict.output, or beside the predicted table where that is not given.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from pathlib import Path

from synpol.command import run_command
from synpol.config import Config, EvaluateLinks, LinkTable
from synpol.errors import InputError
from synpol.evaluation.known_links import where_known
from synpol.evaluation.links import RULES, LinkRule, LinkScores, described, score_links
from synpol.files import is_url, join, whole_file, write_json
from synpol.images.labels import open_labels
from synpol.report.figures import link_curves
from synpol.synapses.links import Links, read_links, read_neurons


def main(config: Config, given: argparse.Namespace) -> None:
    options = config.evaluate.links
    if options.truth is None:
        raise InputError(
            "evaluate.links.truth is not set; name a table: evaluate.links.truth.path=FILE"
        )
    predicted, truth = read_links(predicted_table(config)), read_links(options.truth)
    neurons = None if options.neurons is None else read_neurons(options.neurons)
    rule = rule_of(options)
    for table, links in ((predicted_table(config), predicted), (options.truth, truth)):
        if not len(links):
            raise InputError(f"{table.path} holds no link, so there is nothing to score")
        if rule.same_neurons and not links.known.any():
            raise InputError(
                f"{table.path} names no neurons at both ends of a link, and the rule "
                f"{options.rule} asks for the same ones; name their columns "
                "(columns: {pre_id: ..., post_id: ...}), or set evaluate.links.same_neurons=false"
            )
    if options.known is not None:
        predicted, truth = only_known(config, predicted, truth, rule)
    scores = score_links(
        predicted,
        truth,
        rule,
        neurons=neurons,
        cutoffs=options.cutoffs,
        site_distance=options.site_distance,
    )
    folder = results_folder(config)
    folder.mkdir(parents=True, exist_ok=True)
    about = {"rule": options.rule, **asdict(rule), "neurons": options.neurons}
    if options.known is not None:
        about["known"] = str(options.known)
    write_json(folder / "link_scores.json", {"rule": about, **scores.to_json()})
    with whole_file(folder / "link_scores.png") as temporary:
        link_curves(scores).savefig(temporary, dpi=100, format="png")
    show(rule, scores)
    print(f"{folder / 'link_scores.json'}\n{folder / 'link_scores.png'}")


def only_known(
    config: Config, predicted: Links, truth: Links, rule: LinkRule
) -> tuple[Links, Links]:
    """Leave out the links of places that were not annotated, and tell their numbers."""
    known = open_labels(config.need_image("evaluate.links.known"), "mask")
    ours, true = where_known(predicted, truth, rule, known)
    if not true.any():
        raise InputError(
            f"no true link has both ends where {known.path} is not 0 (evaluate.links.known), so "
            f"there is nothing to score; the image covers {known.offset_nm} to {known.end_nm} nm"
        )
    print(
        f"not annotated there: {int((~ours).sum())} predicted and {int((~true).sum())} true links "
        "are left out"
    )
    return predicted[ours], truth[true]


def predicted_table(config: Config) -> LinkTable:
    """Return the table of predicted links: the one of the config, else that of the result."""
    if config.evaluate.links.predicted is not None:
        return config.evaluate.links.predicted
    if config.predict.output is None:
        raise InputError(
            "neither evaluate.links.predicted nor predict.output is set; name a table: "
            "evaluate.links.predicted.path=FILE"
        )
    return LinkTable(path=join(config.predict.output, "links.parquet"))


def results_folder(config: Config) -> Path:
    """Return the folder for the scores."""
    output = config.predict.output
    if output is not None and not is_url(output):
        return Path(output)
    predicted = predicted_table(config).path
    if is_url(predicted):
        raise InputError(
            f"evaluate.links.predicted is {predicted}, and the scores are written locally; name a "
            "folder for them: predict.output=FOLDER"
        )
    return Path(predicted).parent


def rule_of(options: EvaluateLinks) -> LinkRule:
    """Return the named rule, with the points that the config changes."""
    names = ("ends", "distance", "same_neurons", "duplicates", "within")
    given = {name: getattr(options, name) for name in names}
    return replace(RULES[options.rule], **{k: v for k, v in given.items() if v is not None})


def show(rule: LinkRule, scores: LinkScores) -> None:
    """Print the scores."""
    found = scores.matching
    low, high = found.f1_interval()
    print(f"rule: {described(rule)}")
    print(
        f"links: {found.matched} found, {found.predicted - found.matched} wrong, "
        f"{found.truth - found.matched} missed; precision {found.precision:.4f}, recall "
        f"{found.recall:.4f}, F1 {found.f1:.4f} (95 % {low:.3f}..{high:.3f})"
    )
    print(f"left out: {scores.duplicates} repeated links, {scores.left_out} by the rule")
    print(
        "a table with one post for each presynaptic site could reach a recall of "
        f"{scores.recall_of_one_post:.3f} here"
    )
    print("connections of at least n links:")
    print(f"{'n':>4} {'predicted':>10} {'true':>8} precision  recall")
    for row in scores.edges:
        print(
            f"{row['links']:>4} {row['predicted']:>10} {row['truth']:>8} "
            f"{row['precision']:9.3f} {row['recall']:7.3f}"
        )


if __name__ == "__main__":
    run_command(main, __doc__)
