"""HM3D in the Omnidata release: 9.5 million renders of 899 scanned buildings (`omnidata.py` has the details).

The camera files lie in point_info/ but are called *_domain_fixatedpose.json. Raw depth above 60000 (117 m) counts
as no reading, the limit that Metric3D took for this set; a label ends at 10 m in any case.
"""

from __future__ import annotations

from depthlm.data.readers.omnidata import Omnidata


class HM3D(Omnidata):
    """<root>/<domain>/hm3d/<00000-kfPV7w3FaU5>/point_P_view_V_domain_<domain>.*"""

    name = "hm3d"
    title = "HM3D (Omnidata)"
    licence = "Matterport HM3D EULA through Omnidata: academic, non-commercial use"
    layout = (
        "rgb/, depth_zbuffer/ and point_info/, each hm3d/<00000-scene>/point_<P>_view_<V>_domain_<domain>.png "
        "(point_info: *_domain_fixatedpose.json)"
    )
    near, far = 0.01, 10.0
    legacy_note = "no curation code was released for this set; what its labels mean is not known"
    lists = ("hm3d",)
    invalid_above = 60000


READER = HM3D()
