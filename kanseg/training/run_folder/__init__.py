"""The files of a run (checkpoints, log.jsonl, the samples of its splits), and how it resumes.

Import from the modules.
"""
