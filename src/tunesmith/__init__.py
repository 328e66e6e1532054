"""Tunesmith: fine-tune a language model for a task of your own, and prove that it got better."""

__version__ = "0.1.0"
