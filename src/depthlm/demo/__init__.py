"""The demo: the embedded model measures rooms it never saw, and one page shows how well.

Reading order: run.py (what is measured), pictures.py (how it is drawn), page.py and page.html (how it is told).
"""

from depthlm.demo.run import DemoConfig, format_table, run_demo

__all__ = ["DemoConfig", "format_table", "run_demo"]
