"""Metric definitions: the notebook's regular expressions and their edge cases (spec E3)."""

from __future__ import annotations

import re

import pytest

from smhf_native.jobs.metrics import MetricScanner, check_definitions


def definition(name):
    return {"Name": name, "Regex": f"'{name}': ([0-9]+(.|e\\-)[0-9]+),?"}


def scan(line, *names):
    warnings = []
    found = MetricScanner([definition(name) for name in names], warnings.append).scan(line)
    return found, warnings


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.8352970480918884", 0.8352970480918884),
        ("1e-05", 1e-05),
        ("12e-5", 12e-5),
        ("100", 100.0),
        ("4.5454545454545456e-05", 4.5454545454545456),
        ("7", None),
        ("42", None),
        ("nan", None),
        ("inf", None),
        ("-0.5", None),
    ],
)
def test_edge_cases(text, value):
    line = f"{{'loss': {text}, 'other': 1}}"
    found, _ = scan(line, "loss")
    assert found == ([] if value is None else [("loss", value)])
    # The service takes group 1 of the first match: the same by hand.
    match = re.search(definition("loss")["Regex"], line)
    assert (match is None) == (value is None)


def test_the_quote_keeps_loss_apart_from_eval_loss():
    found, _ = scan("{'eval_loss': 0.5, 'eval_accuracy': 0.25}", "loss", "eval_loss", "eval_accuracy")
    assert found == [("eval_loss", 0.5), ("eval_accuracy", 0.25)]


def test_first_match_of_a_line_counts():
    assert scan("'loss': 0.5 'loss': 0.7", "loss")[0] == [("loss", 0.5)]


def test_values_that_are_no_numbers_are_left_out():
    scanner = MetricScanner([{"Name": "x", "Regex": "x=(.*)"}], print)
    assert scanner.scan("x=abc") == []
    assert scanner.scan("x=1e+20") == [("x", 1e20)]


def test_a_cut_exponent_warns_once_per_metric():
    warnings = []
    scanner = MetricScanner([definition("learning_rate")], warnings.append)
    for _ in range(3):
        scanner.scan("{'learning_rate': 4.5e-05, 'epoch': 1.0}")
    assert len(warnings) == 1 and "learning_rate" in warnings[0] and "4.5e-05" in warnings[0]
    warnings.clear()
    scanner = MetricScanner([definition("learning_rate")], warnings.append)
    scanner.scan("{'learning_rate': 5e-05}")
    scanner.scan("{'learning_rate': 0.5, 'epoch': 1.0}")
    assert warnings == []


@pytest.mark.parametrize(
    ("definitions", "message"),
    [
        ([{"Name": "a", "Regex": "("}], "metric 'a'.*malformed"),
        ([{"Name": "a", "Regex": "[0-9]+"}], "metric 'a'.*no group"),
        ([{"Name": "a"}], "keys 'Name' and 'Regex'"),
        ([{"Name": "", "Regex": "(a)"}], "1 to 255"),
        ([{"Name": "a", "Regex": "(" + "a" * 500 + ")"}], "1 to 500"),
        ([{"Name": f"m{i}", "Regex": "(a)"} for i in range(41)], "at most 40"),
    ],
)
def test_bad_definitions_are_refused_by_name(definitions, message):
    with pytest.raises(ValueError, match=message):
        check_definitions(definitions)


def test_the_notebook_definitions_pass():
    check_definitions([definition(name) for name in ("loss", "learning_rate", "eval_loss", "epoch")])
    check_definitions(None)
