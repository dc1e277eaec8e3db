"""report.html: one page of a run that needs nothing else.

Import `draw_report` from the module `page`.
"""
