"""Figures of merit on plain arrays: correlations, chi2 of shapes, a two-sample classifier, events outside a selection."""

from __future__ import annotations

from hepgen.metrics.chi2 import Chi2, chi2_ndf, marginal_chi2
from hepgen.metrics.classifier import ClassifierAUC, classifier_auc, classifier_floor
from hepgen.metrics.correlations import CorrelationTable, correlation_table, pearson
from hepgen.metrics.observables import pair_observables
from hepgen.metrics.outside import FractionOutside, fraction_outside
from hepgen.metrics.roc import roc_curve, weighted_auc

__all__ = [
    "Chi2",
    "ClassifierAUC",
    "CorrelationTable",
    "FractionOutside",
    "chi2_ndf",
    "classifier_auc",
    "classifier_floor",
    "correlation_table",
    "fraction_outside",
    "marginal_chi2",
    "pair_observables",
    "pearson",
    "roc_curve",
    "weighted_auc",
]
