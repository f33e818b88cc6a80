"""The neuroglancer scene of a result.

Image, prediction, instances, truth and neurons are layers that neuroglancer reads from the files
themselves, level by level and chunk by chunk; synapses are lines of precomputed annotations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import neuroglancer
import numpy as np

from synpol.config import Config
from synpol.files import is_url, join
from synpol.images.image import Image, listed_multiscales, open_image
from synpol.images.precomputed import SCHEME
from synpol.images.world import ome_transform
from synpol.polarity import Channels
from synpol.report.figures import POST, PRE, UNION

#: folder of the precomputed annotations in a result
ANNOTATIONS = "synapses.annotations"
#: world that the scene begins with at most, nm along the shorter side of a panel
FIRST_VIEW = 5000.0


def colour(rgb: np.ndarray) -> str:
    """A colour in a shader."""
    return "vec3(" + ", ".join(f"{c:g}" for c in rgb) + ")"


IMAGE_SHADER = """#uicontrol invlerp grey(range=[{low:g}, {high:g}])
void main() {{ emitGrayscale(grey()); }}
"""

#: for one channel, where each has chunks of its own and a shader cannot see them together
CHANNEL_SHADER = """#uicontrol float strength slider(min=0, max=1, default=0.7)
void main() {{ emitRGBA(vec4({rgb}, toNormalized(getDataValue()) * strength)); }}
"""

#: one shader for the three channels; strength follows the probability
PREDICTION_SHADER = """#uicontrol bool pre checkbox(default={sides})
#uicontrol bool post checkbox(default={sides})
#uicontrol bool whole checkbox(default={whole})
#uicontrol float strength slider(min=0, max=1, default=0.7)
void main() {{
  float a = pre ? {first} : 0.0;
  float b = post ? {second} : 0.0;
  float c = whole ? {union} : 0.0;
  float most = max(max(a, b), c);
  vec3 mixed = (a * {pre} + b * {post} + c * {both}) / max(a + b + c, 1e-3);
  emitRGBA(vec4(mixed, most * strength));
}}
"""

#: from red, where the score is low, over yellow to green
LINE_SHADER = """#uicontrol float low_score slider(min=0, max=1, default={low:.2f})
#uicontrol float high_score slider(min=0, max=1, default={high:.2f})
#uicontrol float hide_below slider(min=0, max=1, default=0)
void main() {{
  if (prop_score() < hide_below) discard;
  float at = clamp((prop_score() - low_score) / max(high_score - low_score, 1e-3), 0.0, 1.0);
  setColor(vec3(min(1.0, 2.0 - 2.0 * at), min(1.0, 2.0 * at), 0.0));
  setLineWidth(3.0);
  setEndpointMarkerSize(6.0, 6.0);
  setEndpointMarkerColor({pre}, {post});
}}
"""


@dataclass(frozen=True)
class Layers:
    """The images of a scene.

    Attributes
    ----------
    raw : Image
    polarity, instances, truth, neurons : Image or None
        Where there is one.
    """

    raw: Image
    polarity: Image | None
    instances: Image
    truth: Image | None
    neurons: Image | None

    @classmethod
    def of(cls, config: Config) -> Layers:
        """Open everything that a config names.

        Raises
        ------
        InputError
            There is no image or no result yet.
        """
        output = config.need("predict.output")

        def image(path: str | None) -> Image | None:
            return None if path is None else open_image(path, channels=0)

        polarity = None  # where it was made elsewhere
        if is_url(output) or Path(output, "polarity").exists():
            polarity = open_image(join(output, "polarity"), channels=Channels.count)
        return cls(
            open_image(config.need("predict.raw"), channels=0),
            polarity,
            open_image(join(output, "instances"), channels=0),
            image(config.evaluate.truth),
            image(config.connect.segmentation),
        )

    def images(self) -> dict[str, tuple[Image, bool]]:
        """Every image that is there by its name, and whether it is one of labels."""
        named = {
            "image": (self.raw, False),
            "prediction": (self.polarity, False),
            "instances": (self.instances, True),
            "truth": (self.truth, True),
            "neurons": (self.neurons, True),
        }
        return {name: (i, labels) for name, (i, labels) in named.items() if i is not None}


def scene_of(
    layers: Layers,
    config: Config,
    address_of: Mapping[str, str],
    scores: Sequence[float] = (0.5, 1.0),
) -> neuroglancer.ViewerState:
    """The state of neuroglancer that shows a result.

    Parameters
    ----------
    layers : Layers
    config : Config
    address_of : mapping
        URL of each of `layers.images` and of ``synapses``.
    scores : (float, float)
        Scores that get the first and the last colour.
    """
    state = neuroglancer.ViewerState()
    raw = layers.raw
    x, y, z = raw.voxel_size_nm[::-1]
    state.dimensions = neuroglancer.CoordinateSpace(
        names=["x", "y", "z"], units="nm", scales=[x, y, z]
    )
    where = layers.instances
    first, last = np.array(where.offset_nm), np.array(where.end_nm)
    middle = (first + last) / 2 / raw.voxel_size_nm
    state.position = np.floor(middle[::-1]) + 0.5
    extent = min((last - first)[1:].min(), FIRST_VIEW)
    state.cross_section_scale = extent / 700 / x
    state.projection_scale = 2 * extent / x
    state.layout = "xy-3d"
    for name, (image, labels) in layers.images().items():
        for shown, layer in _layers_of(name, image, labels, address_of[name], config).items():
            visible = name not in ("truth", "neurons")
            state.layers.append(neuroglancer.ManagedLayer(name=shown, layer=layer, visible=visible))
    if "synapses" in address_of:
        low, high = scores
        shader = LINE_SHADER.format(low=low, high=high, pre=colour(PRE), post=colour(POST))
        annotations = neuroglancer.AnnotationLayer(
            source=f"{address_of['synapses']}|neuroglancer-precomputed:", shader=shader
        )
        if layers.neurons is not None:
            annotations.linked_segmentation_layer = dict.fromkeys(("pre", "post"), "neurons")
            annotations.filter_by_segmentation = ["pre", "post"]  # of selected neurons, if any
        state.layers["synapses"] = annotations
    state.selected_layer.layer = "synapses"
    return state


def _layers_of(
    name: str, image: Image, labels: bool, address: str, config: Config
) -> dict[str, neuroglancer.Layer]:
    """The layers of an image by their names: one, or one for each channel of a prediction."""
    if labels:
        layer = neuroglancer.SegmentationLayer(source=_source(image, address), selected_alpha=0.25)
        return {name: layer}
    found: dict[str, tuple[neuroglancer.LayerDataSource, str, int | None]]
    if image.array.ndim == 3:
        found = {name: (_source(image, address), _image_shader(image), None)}
    elif image.array.chunks[0] == image.array.shape[0]:  # a shader sees the channels of a chunk
        found = {name: (_source(image, address), _prediction_shader(config), None)}
    else:
        found = {
            f"{name}: {title}": (
                _source(image, address, "c'"),
                CHANNEL_SHADER.format(rgb=colour(rgb)),
                number,
            )
            for number, (title, rgb) in _channels(config).items()
        }
    layers = {}
    for shown, (source, shader, channel) in found.items():
        layers[shown] = neuroglancer.ImageLayer(source=source, shader=shader, opacity=1.0)
        if channel is not None:
            layers[shown].local_position = [channel]
    return layers


def _channels(config: Config) -> dict[int, tuple[str, np.ndarray]]:
    """Name and colour of the channels of a prediction that are shown, by their number."""
    channels = Channels.of(config.exclusive)
    colours = {"pre": PRE, "post": POST}
    if not config.decode.sides and not config.exclusive:
        colours = {"union": UNION}
    return {channels.index(name): (name, rgb) for name, rgb in colours.items()}


def _source(image: Image, address: str, channel: str = "c^") -> neuroglancer.LayerDataSource:
    """An image as neuroglancer's source; ``c^`` are channels that a shader sees together."""
    if image.path.startswith(SCHEME):
        return neuroglancer.LayerDataSource(url=f"{address}|neuroglancer-precomputed:")
    scheme = f"zarr{image.array.metadata.zarr_format}"
    names, scales, units = ["z", "y", "x"], list(image.voxel_size_nm), ["nm"] * 3
    place = np.array(image.offset_nm)
    multiscales = listed_multiscales(image)
    if multiscales is None:  # neuroglancer takes a voxel for 1 without a unit
        linear = np.array(image.voxel_size_nm) * 1e-9
    else:  # it reads these, and takes the place for that of the first voxel's centre
        linear = np.ones(3)
        scale, translation = ome_transform(multiscales)
        corner = np.array(translation or [0.0] * 3) - np.array(scale) / 2
        place = place - corner * np.array(image.voxel_size_nm) / np.array(scale)
    places = place / np.array(image.voxel_size_nm)
    if image.array.ndim == 4:
        names, scales, units = [channel, *names], [1.0, *scales], ["", *units]
        linear, places = np.append(1.0, linear), np.append(0.0, places)
    space = neuroglancer.CoordinateSpace(names=names, units=units, scales=scales)
    transform = neuroglancer.CoordinateSpaceTransform(output_dimensions=space)
    if multiscales is None or np.abs(places).max() > 1e-6:
        transform.matrix = np.concatenate([np.diag(linear), places[:, None]], axis=1)
    return neuroglancer.LayerDataSource(url=f"{address}|{scheme}:", transform=transform)


def _image_shader(image: Image) -> str:
    """Grey values between the 0.5 and the 99.5 percentile of the middle of the image."""
    sizes = zip(image.array.shape, (8, 512, 512), strict=True)
    part = tuple(slice(max(0, (n - m) // 2), (n + m) // 2) for n, m in sizes)
    low, high = np.percentile(np.asarray(image.array[part]), [0.5, 99.5])
    high = high if high > low else low + 1
    return IMAGE_SHADER.format(low=low, high=high)


def _prediction_shader(config: Config) -> str:
    channels, sides = Channels.of(config.exclusive), config.decode.sides
    value = {n: f"toNormalized(getDataValue({channels.index(n)}))" for n in channels.names}
    pre, post = value["pre"], value["post"]
    return PREDICTION_SHADER.format(
        sides=str(sides).lower(),
        whole=str(not sides).lower(),
        first=pre,
        second=post,
        union=value.get("union", f"min({pre} + {post}, 1.0)"),
        pre=colour(PRE),
        post=colour(POST),
        both=colour(UNION),
    )
