"""What the files of a prediction must not be: files of another image, or inputs."""

from __future__ import annotations

import os
from pathlib import Path

from kanseg.inference.files.inputs import (
    JobList,
    real_path,
    refuse_clashes,
    refuse_masks_among_images,
    refuse_to_overwrite,
)
from kanseg.inference.files.outputs import ANNOTATIONS, OVERLAYS, OutputWriter


def check_targets(jobs: JobList, writer: OutputWriter) -> None:
    """Raise InputError if two jobs would write one file, one would overwrite an input, or masks
    would lie among the images.
    """
    if not _can_collide(jobs, writer):
        return
    targets = {}
    for job in jobs:
        if job.is_video:
            targets[job] = {writer.root / OVERLAYS / f"{job.name}.mp4"}
        else:
            targets[job] = {*writer.paths(job.name, ".png"), *writer.paths(job.name, ".tif")}
    refuse_to_overwrite(jobs, [writer.root / ANNOTATIONS, *set().union(*targets.values())])
    refuse_clashes(targets)
    folders = {writer.mask_paths(job.name)[0].parent for job in jobs}
    refuse_masks_among_images(jobs, folders)


def _can_collide(jobs: JobList, writer: OutputWriter) -> bool:
    """True if files must be compared one by one, which takes a minute for a million. Their names
    differ, so that they collide only if folders do, or an input is a link to an output.
    """
    if jobs.has_links and any(map(os.path.islink, jobs.paths())):
        return True
    inputs = {real_path(folder) for folder in jobs.folders()}
    below = {name.rpartition("/")[0] for name in jobs.names()}
    if any(video.name in below for video in jobs.videos()):
        return True  # the folder of its frames
    owners: dict[Path, str] = {}
    for folder in below:
        name = f"{folder}/x" if folder else "x"
        files = [*writer.paths(name, ".png"), *writer.paths(name, ".tif")]
        for target in {path.parent for path in files}:
            if real_path(target) in inputs or owners.setdefault(target, folder) != folder:
                return True
    return False
