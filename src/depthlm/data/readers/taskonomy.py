"""Taskonomy in the Omnidata release: 4.6 million renders of 537 scanned buildings (`omnidata.py` has the details)."""

from __future__ import annotations

from depthlm.data.readers.omnidata import Omnidata


class Taskonomy(Omnidata):
    """<root>/<domain>/taskonomy/<building>/point_P_view_V_domain_<domain>.*"""

    name = "taskonomy"
    title = "Taskonomy (Omnidata)"
    licence = "Taskonomy EULA through Omnidata: non-commercial research, no redistribution"
    layout = (
        "rgb/, depth_zbuffer/ and point_info/, each taskonomy/<building>/point_<P>_view_<V>_domain_<domain>.png|json"
    )
    near, far = 0.005, 15.0
    legacy_note = "no curation code was released for this set; what its labels mean is not known"
    lists = ("tiny", "medium", "full", "fullplus")


READER = Taskonomy()
