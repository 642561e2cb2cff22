"""One contract per kind, run over everything the registry knows. `cases` builds, `checks`
judges.
"""
