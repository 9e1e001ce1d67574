"""Procedural rooms and streets with exact depth: the data source that ships with the package.

Reading order: materials.py (how a surface is painted) and palette.py (the looks, at their true size), builder.py (boxes
and quads -> arrays), furniture.py, indoor.py, outdoor.py (what is built), scene.py (a scene and its cameras), render.py
(ray casting and shading), labels.py (which objects are seen, and their boxes), generate.py (samples in
parallel, shards).
"""
