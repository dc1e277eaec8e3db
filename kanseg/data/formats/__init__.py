"""Readers of the layouts of a data set on disk, one module per layout.

Import `open_data` from `kanseg.data`; it calls the reader of the layout (`kanseg.data.opening`).

A layout NAME has two functions (`folder`, the default, only the second):

    is_NAME(root: Path) -> bool

True if files and folders have the names of the layout. Where names say nothing, as those of JSON
files, the first bytes of a file decide, so that a damaged file is recognized too. Register it in
`RECOGNIZED` and the reader in `READERS` of `kanseg.data.opening`.

    read_NAME(root, overrides, *, seed, max_pixels, probe, strict) -> DatasetIndex

Reads lists and settings; it decodes no image, and masks only through `probe`. Its arguments:

    root        folder of the data set
    overrides   label settings that replace those of dataset.yaml: task, classes, mask_values,
                ignore_index, palette; pass them to `read_label_settings`
    seed        of the split (`seeded_split`) of a data set without split files
    max_pixels  limit of pixels, which every `Sample` gets
    probe       returns the facts about mask files, for layouts whose classes are inferred from
                them (`complete_label_spec`); others ignore it
    strict      True: end with `index.raise_errors()`; False: return the index with all problems

Layouts of annotated objects share `objects.py`: a file that cannot be read is the `fault` of the
`Annotation` of its image, so that the other images can be used.

The index holds the samples by split, the `LabelSpec`, notes and problems. A note is a line about an
automatic decision. A problem is an `Issue` whose code is a key of `KINDS` (`issues.py`): something
that is wrong with the layout as a whole, whether or not it stops a training. Problems of a split
file are in `split_problems`, because they count only if the split is used. Problems of single files
are found by the check of the data (`kanseg.data.checks`).

A reader raises `InputError` only if there is no index to return: the folder is not of this layout,
or a file of the whole data set (such as COCO's JSON) cannot be read.
"""
