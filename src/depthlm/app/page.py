"""The page itself: gradio's components wired to what desk.py and mapping.py do."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator  # gradio reads the annotations of handlers
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from depthlm.app import mapping, words
from depthlm.app.cameras import AUTO, FILE, FOCAL, FOV, MODES, in_page_words
from depthlm.app.desk import NoCameraYetError
from depthlm.errors import BackendError, InputError

if TYPE_CHECKING:
    from depthlm.app.desk import Desk
    from depthlm.app.session import Session

_LOG = logging.getLogger(__name__)
TITLE = "depthlm: how far is it?"
_BUDGET = 400
_FILES = ("PNG", "NPY", "PLY", "GLB", "JSON")
_FROM = (90, 80)  # degrees: where a cloud is first seen from, a little above the camera
_FAMILY = ("system-ui", "-apple-system", "Segoe UI", "DejaVu Sans", "sans-serif")


def theme() -> gr.themes.Base:
    """System fonts and one blue: nothing is fetched from elsewhere."""
    return gr.themes.Base(
        primary_hue="blue",
        neutral_hue="slate",
        radius_size="md",
        font=list(_FAMILY),
        font_mono=["ui-monospace", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace"],
    ).set(
        button_primary_background_fill="#1d5faa",
        button_primary_background_fill_hover="#164c8a",
        button_primary_text_color="#ffffff",
        block_border_width="0px",
        block_shadow="none",
        body_background_fill="#ffffff",
    )


def css() -> str:
    """The page's own style."""
    return (Path(__file__).parent / "page.css").read_text(encoding="utf-8")


class Page:
    """The components, and what happens when they are used."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.cloud_tabs: list[tuple[gr.Tab, gr.Model3D]] = []
        self.blocks = gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True, delete_cache=(600, 3600))
        with self.blocks:
            gr.HTML(words.header([model.name for model in desk.models]), padding=False)
            self._build_choice()
            self.message = gr.HTML(elem_id="message", padding=False)
            with gr.Row():
                with gr.Column(scale=7, min_width=280):
                    self._build_pictures()
                with gr.Column(scale=4, min_width=280):
                    self._build_points()
                    self._build_camera()
            self._wire()
        self.blocks.queue(max_size=desk.limits.waiting, default_concurrency_limit=4)

    # --- components ---------------------------------------------------------------------------------------------------

    def _build_choice(self) -> None:
        with gr.Row(equal_height=True):
            with gr.Column(scale=7, min_width=280):
                thumbs = [(room.large.resize((256, 192)), room.name) for room in self.desk.rooms]
                self.rooms = gr.Gallery(
                    thumbs, columns=len(thumbs) or 1, allow_preview=False, show_label=False, buttons=[],
                    object_fit="cover", elem_id="rooms", interactive=False, label="Example rooms", format="jpeg",
                )  # fmt: skip
            with gr.Column(scale=4, min_width=280):
                self.upload = gr.File(
                    file_types=["image"], label="Drop a photograph", show_label=False, height=104, elem_id="upload"
                )
                self.upload.preprocess = _as_path

    def _build_pictures(self) -> None:
        with gr.Tabs() as self.tabs:
            with gr.Tab("Measure", id="measure"), gr.Row(elem_id="pictures"):
                self.pictures = [
                    gr.Image(
                        interactive=False, label=model.name, show_label=len(self.desk.models) > 1, buttons=[],
                        elem_classes="picture", elem_id=f"picture-{number}", format="jpeg",
                        alt_text="The picture with the measured points; click to measure",
                    )
                    for number, model in enumerate(self.desk.models)
                ]  # fmt: skip
            with gr.Tab("Depth map", id="map"):
                self._build_map_controls()
                with gr.Row():
                    self.map_views = [self._build_map(number) for number in range(len(self.desk.models))]

    def _build_map_controls(self) -> None:
        with gr.Row(elem_id="map-controls"):
            self.budget = gr.Slider(
                50, self.desk.limits.budget, value=min(_BUDGET, self.desk.limits.budget), step=50,
                label="Questions to ask", elem_id="budget", buttons=[],
            )  # fmt: skip
            self.draw = gr.Button("Draw the depth map", variant="primary", elem_id="draw", min_width=190, scale=0)
            self.cancel = gr.Button("Cancel", variant="stop", elem_id="cancel", visible=False, min_width=90, scale=0)
        self.progress = gr.HTML(words.MAP_HINT, elem_id="progress", padding=False)

    def _build_map(self, number: int) -> list[Any]:
        """[3D, column, depth, caption, confidence, file buttons ...] of one model.

        The cloud stands first, so that it is taken away while the column is still shown: what a part that is not shown
        yet is told, gradio keeps until some time after it is, and may then put it over what has come since.
        """
        name = self.desk.models[number].name
        with gr.Column(visible=False, min_width=280) as column:
            if len(self.desk.models) > 1:
                gr.Markdown(name, elem_classes="model-name")
            with gr.Tabs():
                with gr.Tab("Depth"):
                    depth = gr.Image(
                        interactive=False, show_label=False, buttons=[], format="png", elem_classes="shown",
                        elem_id=f"depth-{number}", alt_text="Depth map in colours: near is bright",
                    )  # fmt: skip
                    caption = gr.HTML(padding=False)
                with gr.Tab("Confidence"):
                    sure = gr.Image(
                        interactive=False, show_label=False, buttons=[], format="png", elem_classes="shown",
                        elem_id=f"confidence-{number}", alt_text="Confidence: white where measured points agree",
                    )  # fmt: skip
                    gr.HTML(
                        '<p class="quiet">White: the measured points around agree on this pixel. Black: they do not, '
                        "as at the edges of things.</p>",
                        padding=False,
                    )
                with gr.Tab("3D") as tab:
                    cloud = gr.Model3D(
                        show_label=False, height=460, clear_color=(0.965, 0.969, 0.976, 1.0), elem_id=f"cloud-{number}",
                        interactive=False, buttons=[], camera_position=(*_FROM, None),
                    )  # fmt: skip
                    gr.HTML('<p class="quiet">Drag to turn, scroll or pinch to come closer.</p>', padding=False)
            with gr.Row(elem_classes="files"):
                files = [
                    gr.DownloadButton(label, size="sm", elem_id=f"file-{label.lower()}-{number}") for label in _FILES
                ]
        self.cloud_tabs.append((tab, cloud))
        return [cloud, column, depth, caption, sure, *files]

    def _build_points(self) -> None:
        self.results = gr.HTML(elem_id="results", padding=False)
        with gr.Row(elem_id="keys"):
            self.u = gr.Number(label="u (right)", minimum=0, min_width=70, elem_id="u", value=None)
            self.v = gr.Number(label="v (down)", minimum=0, min_width=70, elem_id="v", value=None)
            self.measure = gr.Button("Measure", variant="primary", min_width=100, scale=0, elem_id="measure-button")
        with gr.Row(elem_classes="files"):
            self.undo = gr.Button("Undo", size="sm", elem_id="undo")
            self.clear = gr.Button("Clear", size="sm", elem_id="clear")
            self.points_file = gr.DownloadButton("Points as JSON", size="sm", elem_id="points-json", interactive=False)

    def _build_camera(self) -> None:
        self.camera_card = gr.HTML(elem_id="camera", padding=False)
        with gr.Accordion("Set the camera", open=False, elem_id="set-camera") as self.camera_box:
            self.mode = gr.Radio(list(MODES), value=AUTO, show_label=False, label="Camera", elem_id="camera-mode")
            self.fov = gr.Slider(
                10, 140, value=65, step=0.5, label="Horizontal field of view, degrees", visible=False, elem_id="fov",
                info="A phone's main camera held level: about 65 to 70; held upright: about 50 to 55.", buttons=[],
            )  # fmt: skip
            self.focal = gr.Number(label="Focal length, pixels", visible=False, minimum=1, elem_id="focal", value=None)
            with gr.Column(visible=False) as self.file_box:
                self.file = gr.File(
                    label="JSON, YAML, ROS camera_info or COLMAP cameras.txt", height=96, elem_id="camera-file"
                )
            self.file.preprocess = _as_path
            self.apply = gr.Button("Use this camera", variant="primary", size="md", elem_id="use-camera")

    # --- what happens -------------------------------------------------------------------------------------------------

    def _wire(self) -> None:
        self.shown = [*self.pictures, self.results, self.camera_card, self.message, self.points_file, self.u, self.v]
        self.maps = [part for view in self.map_views for part in view]
        self.drawing = [*self.maps, self.progress, self.draw, self.cancel]
        quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        opened = [*self.shown, *self.drawing, self.upload, self.mode, self.camera_box]
        self.blocks.load(self._first, None, opened, **quiet)
        self.blocks.unload(self._left)
        self.rooms.select(self._room, None, opened, **quiet)
        self.upload.upload(self._upload, self.upload, opened, **quiet)
        for picture in self.pictures:
            picture.select(self._click, None, self.shown, trigger_mode="multiple", **quiet)
        typed = [self.measure.click, self.u.submit, self.v.submit]
        gr.on(typed, self._typed, [self.u, self.v], self.shown, **quiet)
        self.undo.click(self._undo, None, self.shown, **quiet)
        self.clear.click(self._clear, None, self.shown, **quiet)
        self.mode.change(self._mode, self.mode, [self.fov, self.focal, self.file_box], queue=False, **quiet)
        chosen = [self.mode, self.fov, self.focal, self.file]
        self.apply.click(self._camera, chosen, [*self.shown, *self.drawing, self.file], **quiet)
        drawn = [*self.drawing, self.message]
        self.draw.click(self._map, self.budget, drawn, concurrency_limit=1, concurrency_id="map", **quiet)
        for number, (tab, cloud) in enumerate(self.cloud_tabs):
            tab.select(self._cloud(number), None, cloud, js=_when_shown(cloud), **quiet)
        self.cancel.click(self._stop, None, None, queue=False, **quiet)

    def _session(self, request: gr.Request) -> Session:
        return self.desk.store.get(str(request.session_hash))

    def _first(self, request: gr.Request) -> list[Any]:
        return self._open(request, lambda session: self.desk.open_room(session, 0) if self.desk.rooms else None)

    def _left(self, request: gr.Request) -> None:
        self.desk.store.drop(str(request.session_hash))

    def _room(self, request: gr.Request, event: gr.SelectData) -> list[Any]:
        return self._open(request, lambda session: self.desk.open_room(session, int(event.index)))

    def _upload(self, path: str | None, request: gr.Request) -> list[Any]:
        if path is None:
            return self._open(request, lambda session: None)
        return self._open(request, lambda session: self.desk.open_upload(session, Path(path)))

    def _open(self, request: gr.Request, change: Callable[[Session], None]) -> list[Any]:
        """Another picture: everything about the last one goes."""
        session = self._session(request)
        before = session.picture
        said = attempt(lambda: change(session))
        shown = self._show(session, said)
        if session.picture is before:  # nothing was opened: what was there stays
            return [*shown, *[gr.skip()] * len(self.drawing), None, gr.skip(), gr.skip()]
        known = session.camera is not None
        return [*shown, *self._no_map(session), None, AUTO if known else FOV, gr.Accordion(open=not known)]

    def _click(self, request: gr.Request, event: gr.SelectData) -> list[Any]:
        session = self._session(request)

        def click() -> None:
            if session.picture is None:
                raise InputError("Your picture was put away, the longest unused of many visitors'; choose it again.")
            x, y = event.index
            self.desk.click(session, *session.picture.to_image(float(x), float(y)))

        return self._show(session, attempt(click))

    def _typed(self, u: float | None, v: float | None, request: gr.Request) -> list[Any]:
        session = self._session(request)
        return self._show(session, attempt(lambda: self.desk.click(session, u, v)))

    def _undo(self, request: gr.Request) -> list[Any]:
        session = self._session(request)
        return self._show(session, attempt(lambda: self.desk.undo(session)))

    def _clear(self, request: gr.Request) -> list[Any]:
        session = self._session(request)
        return self._show(session, attempt(lambda: self.desk.clear(session)))

    def _mode(self, mode: str) -> list[Any]:
        return [gr.update(visible=mode == part) for part in (FOV, FOCAL, FILE)]

    def _camera(
        self, mode: str, fov: float | None, focal: float | None, file: str | None, request: gr.Request
    ) -> list[Any]:
        session = self._session(request)
        path = None if file is None else Path(file)
        said = attempt(lambda: self.desk.set_camera(session, mode, fov=fov, focal=focal, file=path))
        if path is not None:
            self.desk.uploads.take(path)
        kept = [gr.skip()] * len(self.drawing)
        return [*self._show(session, said), *(kept if said else self._no_map(session)), None]

    def _map(self, budget: float | None, request: gr.Request) -> Iterator[list[Any]]:
        """Progress as it comes, in place of the maps before; then the maps."""
        session = self._session(request)
        try:
            for number, (done, total) in enumerate(mapping.map_steps(self.desk, session, budget)):
                maps = [gr.skip()] * len(self.maps) if number else self._no_map(session)[: len(self.maps)]
                buttons = [gr.update(interactive=False), gr.update(visible=True)]
                yield [*maps, words.progress(done, total), *buttons, ""]
            yield [*self._map_parts(session), "", gr.update(interactive=True), gr.update(visible=False), ""]
        except mapping.StoppedMapError:
            yield [*self._no_map(session), words.message("Stopped. Nothing was kept of this map.", "note")]
        except Exception as error:
            yield [*self._no_map(session), words.message(explain(error))]

    def _cloud(self, number: int) -> Callable[[gr.Request], Any]:
        """What sends the cloud of one model."""

        def cloud(request: gr.Request) -> Any:
            session = self._session(request)
            if not session.maps:
                return None
            path, away = mapping.write_shown_cloud(session, number)
            session.cloud_sent = True
            return gr.update(value=str(path), camera_position=(*_FROM, away))

        return cloud

    def _stop(self, request: gr.Request) -> None:
        self._session(request).stop.set()

    # --- what is shown ------------------------------------------------------------------------------------------------

    def _show(self, session: Session, said: str) -> list[Any]:
        """Values of `shown`."""
        file = self.desk.points_json(session)
        return [
            *(self.desk.drawn(session, number) for number in range(len(self.pictures))),
            words.results(self.desk, session),
            words.camera_card(session.camera) if session.picture else "",
            said,
            gr.update(value=file and str(file), interactive=file is not None),
            *_coordinates(session),
        ]

    def _map_parts(self, session: Session) -> list[Any]:
        """Values of `maps`."""
        near, far = mapping.colour_range(session.maps)
        parts: list[Any] = []
        for number, model in enumerate(self.desk.models):
            found = session.maps[number]
            files = mapping.write_files(session, number, model.name)
            parts += [
                gr.skip(),  # gradio sends a last output twice: a cloud shown between would be taken away
                gr.update(visible=True),
                mapping.depth_view(found, near, far),
                words.map_caption(session, number, near, far),
                mapping.confidence_view(found),
                *(gr.update(value=str(path)) for path in files),
            ]
        return parts

    def _no_map(self, session: Session) -> list[Any]:
        """Values of `drawing` where there is none."""
        cloud = None if session.cloud_sent else gr.skip()
        session.cloud_sent = False
        parts: list[Any] = []
        for _ in self.map_views:
            parts += [cloud, gr.update(visible=False), None, "", None, *[gr.update(value=None)] * len(_FILES)]
        return [*parts, words.MAP_HINT, gr.update(interactive=True), gr.update(visible=False)]


def _when_shown(part: gr.Model3D) -> str:
    """JavaScript that waits until a part of a tab stands on the page, before the server is asked for what it shows.

    A frame after a tab is first opened, gradio tells all its parts once more what they show (gradio 6.31,
    `render_previously_invisible_children`). A model that Model3D has by then is lost: it breaks off loading its
    viewer when it is told the same again, and does not begin anew.
    """
    return f"""async () => {{
        const frame = () => new Promise(requestAnimationFrame);
        for (let n = 0; n < 600 && !document.getElementById("{part.elem_id}"); n++) await frame();
        for (let n = 0; n < 10; n++) await frame();
        return [];
    }}"""


def _as_path(payload: Any) -> str | None:
    """What gradio does with a file, without the empty one beside it that it leaves behind."""
    return payload and str(payload.path)


def _coordinates(session: Session) -> list[Any]:
    """The last point, where the next can be typed from."""
    if session.picture is None:
        return [gr.skip(), gr.skip()]
    size = session.picture.image.size
    last = session.uv[-1] if session.uv else (None, None)
    return [gr.update(value=part, maximum=most - 1) for part, most in zip(last, size, strict=True)]


def attempt(change: Callable[[], None]) -> str:
    """Do it; what goes wrong, as a message for the visitor, or ""."""
    try:
        change()
    except NoCameraYetError as error:
        return words.message(str(error), "note")
    except Exception as error:
        return words.message(explain(error))
    return ""


def explain(error: Exception) -> str:
    """One line about what went wrong, in the page's words."""
    if isinstance(error, InputError):
        return in_page_words(str(error))
    if isinstance(error, BackendError):
        _LOG.warning("%s", error)  # with the server's address, which is no visitor's business
        reason = re.sub(r"^https?://\S+: ", "", str(error)).split("; run the same command")[0].split(" ([Errno")[0]
        return f"The model's server does not answer ({reason}). Your points are kept; try again when it is back."
    _LOG.error("the page could not do what was asked", exc_info=error)
    return f"Something went wrong here ({type(error).__name__}); the server's log says what. The page goes on."


def build(desk: Desk) -> gr.Blocks:
    """The page of a desk."""
    return Page(desk).blocks
