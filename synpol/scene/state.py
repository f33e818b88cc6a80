"""Make the neuroglancer scene of a result.

Image, prediction, instances, truth and neurons are layers. Neuroglancer reads them from the files
of the result, in the resolution and the chunks that it needs. Synapses are lines of precomputed
annotations (`synpol.scene.annotations`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import neuroglancer
import numpy as np

from synpol.config import Config, Source
from synpol.errors import InputError
from synpol.files import is_url, join
from synpol.images.groups import image_path, listed, stored_array
from synpol.images.image import Image, open_image
from synpol.images.kinds import SCHEME
from synpol.polarity import Channels
from synpol.report.colours import POST, PRE, UNION

#: folder of the precomputed annotations in a result
ANNOTATIONS = "synapses.annotations"
#: largest extent of the first view, nm along the shorter side of a panel
FIRST_VIEW = 5000.0


def colour(rgb: np.ndarray) -> str:
    """Write an RGB colour as a vector of the shader language."""
    return "vec3(" + ", ".join(f"{c:g}" for c in rgb) + ")"


IMAGE_SHADER = """#uicontrol invlerp grey(range=[{low:g}, {high:g}])
void main() {{ emitGrayscale(grey()); }}
"""

#: shader of one channel, for arrays whose channels lie in different chunks
CHANNEL_SHADER = """#uicontrol float strength slider(min=0, max=1, default=0.7)
void main() {{ emitRGBA(vec4({rgb}, toNormalized(getDataValue()) * strength)); }}
"""

#: shader of all channels together; a higher probability gives a stronger colour
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

#: shader of the synapses' lines: red for low scores, then yellow, then green
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
    """Images of a scene.

    Attributes
    ----------
    raw, instances : Image
        EM image and label volume of the result.
    polarity : Image or None
        Prediction; None if the instances were decoded from an array elsewhere.
    truth, neurons : Image or None
        True labels and segmentation, if the configuration names them.
    """

    raw: Image
    polarity: Image | None
    instances: Image
    truth: Image | None
    neurons: Image | None

    @classmethod
    def of(cls, config: Config) -> Layers:
        """Open all images that a configuration names.

        Raises
        ------
        InputError
            An image or the result does not exist.
        """
        output = config.need("predict.output")
        if not is_url(output) and not Path(output, "instances").exists():
            raise InputError(
                f"there is no Zarr array or group at {join(output, 'instances')}: predict.output "
                "has no result yet. Run pipelines/predict_blockwise.py CONFIG of synpol's "
                "repository first, or name the folder of a result"
            )
        raw = open_image(config.need_image("predict.raw"), channels=0)
        polarity = None
        if is_url(output) or Path(output, "polarity").exists():
            polarity = open_image(join(output, "polarity"), channels=Channels.count)
        return cls.around(config, raw, polarity, open_image(join(output, "instances"), channels=0))

    @classmethod
    def around(cls, config: Config, raw: Image, polarity: Image | None, instances: Image) -> Layers:
        """Open truth and neurons beside the images of a result.

        Raises
        ------
        InputError
            The configuration names one that does not exist.
        """

        def image(source: Source | None) -> Image | None:
            if source is None:
                return None
            return open_image(source, channels=0, beside=raw).fitted_to(raw)

        truth, neurons = image(config.evaluate.truth), image(config.connect.segmentation)
        return cls(raw, polarity, instances, truth, neurons)

    def images(self) -> dict[str, tuple[Image, bool]]:
        """Return the images that exist by their names, each with whether it holds labels."""
        named = {
            "image": (self.raw, False),
            "prediction": (self.polarity, False),
            "instances": (self.instances, True),
            "truth": (self.truth, True),
            "neurons": (self.neurons, True),
        }
        return {name: (i, labels) for name, (i, labels) in named.items() if i is not None}

    def places(self, lines: Path | None) -> tuple[dict[str, str], dict[str, Path]]:
        """Return the URLs of images elsewhere, and the folders to serve, by name.

        Parameters
        ----------
        lines : Path, optional
            Folder of the synapses' lines.
        """
        addresses: dict[str, str] = {}
        folders = {} if lines is None else {"synapses": lines}
        for name, (image, _) in self.images().items():
            path = image_path(image).removeprefix(SCHEME)
            if is_url(path):
                addresses[name] = path
            else:
                folders[name] = Path(path)
        return addresses, folders


def scene_of(
    layers: Layers,
    config: Config,
    address_of: Mapping[str, str],
    scores: Sequence[float] = (0.5, 1.0),
) -> neuroglancer.ViewerState:
    """Make the state of neuroglancer that shows a result.

    Parameters
    ----------
    layers : Layers
        Images to show.
    config : Config
        Configuration of the result.
    address_of : mapping of str to str
        URL of each image in `layers.images`, and of the annotations as ``synapses``.
    scores : (float, float)
        Scores with the first and the last colour of the lines.
    """
    state = neuroglancer.ViewerState()
    raw = layers.raw
    x, y, z = raw.voxel_size_nm[::-1]
    state.dimensions = neuroglancer.CoordinateSpace(
        names=["x", "y", "z"], units="nm", scales=[x, y, z]
    )
    first, last = np.array(layers.instances.offset_nm), np.array(layers.instances.end_nm)
    middle = (first + last) / 2 / raw.voxel_size_nm
    state.position = np.floor(middle[::-1]) + 0.5
    extent = min((last - first)[1:].min(), FIRST_VIEW)
    state.cross_section_scale = extent / 700 / x
    state.projection_scale = 2 * extent / x
    state.layout = "xy-3d"
    for name, (image, labels) in layers.images().items():
        for title, layer in _layers_of(name, image, labels, address_of[name], config).items():
            visible = name not in ("truth", "neurons")
            state.layers.append(neuroglancer.ManagedLayer(name=title, layer=layer, visible=visible))
    if "synapses" in address_of:
        low, high = scores
        shader = LINE_SHADER.format(low=low, high=high, pre=colour(PRE), post=colour(POST))
        annotations = neuroglancer.AnnotationLayer(
            source=f"{address_of['synapses']}|neuroglancer-precomputed:", shader=shader
        )
        if layers.neurons is not None:
            annotations.linked_segmentation_layer = dict.fromkeys(("pre", "post"), "neurons")
            annotations.filter_by_segmentation = ["pre", "post"]  # lines of selected neurons only
        state.layers["synapses"] = annotations
    state.selected_layer.layer = "synapses"
    return state


def _layers_of(
    name: str, image: Image, labels: bool, address: str, config: Config
) -> dict[str, neuroglancer.Layer]:
    """Make the layers of an image by their names.

    An image has one layer. A prediction whose channels lie in different chunks has one layer for
    each channel, because a shader sees only the channels of one chunk.
    """
    layer: neuroglancer.Layer
    picked = [] if image.path.startswith(SCHEME) else [*stored_array(image)[1].picked.values()]
    if labels or image.array.ndim == 3 or image.array.chunks[0] == image.array.shape[0]:
        source = _source(image, address)
        if labels:
            layer = neuroglancer.SegmentationLayer(source=source, selected_alpha=0.25)
        else:
            shader = _image_shader(image) if image.array.ndim == 3 else _prediction_shader(config)
            layer = neuroglancer.ImageLayer(source=source, shader=shader, opacity=1.0)
        if picked:
            layer.local_position = picked
        return {name: layer}
    layers = {}
    for number, (channel, rgb) in _channels(config).items():
        layer = neuroglancer.ImageLayer(
            source=_source(image, address, "c'"),
            shader=CHANNEL_SHADER.format(rgb=colour(rgb)),
            opacity=1.0,
        )
        layer.local_position = [number]
        layers[f"{name}: {channel}"] = layer
    return layers


def _channels(config: Config) -> dict[int, tuple[str, np.ndarray]]:
    """Return name and colour of each channel of a prediction to show, by the channel's number."""
    channels = Channels.of(config.exclusive)
    colours = {"pre": PRE, "post": POST}
    if not config.decode.sides and not config.exclusive:
        colours = {"union": UNION}
    return {channels.index(name): (name, rgb) for name, rgb in colours.items()}


def _source(image: Image, address: str, channel: str = "c^") -> neuroglancer.LayerDataSource:
    """Make neuroglancer's data source of an image.

    Parameters
    ----------
    image : Image
    address : str
        URL of the image.
    channel : str
        Name of the channel axis: ``c^`` if a shader sees all channels, ``c'`` if the layer shows
        one channel.
    """
    if image.path.startswith(SCHEME):
        return neuroglancer.LayerDataSource(url=f"{address}|neuroglancer-precomputed:")
    stored, layout = stored_array(image)
    ndim, space = stored.ndim, list(layout.order[-3:])
    names = [f"axis{axis}'" for axis in range(ndim)]  # axes of the layer alone, for what is picked
    scales, units = np.ones(ndim), [""] * ndim
    for axis, name, size in zip(space, "zyx", image.voxel_size_nm, strict=True):
        names[axis], scales[axis], units[axis] = name, size, "nm"
    if len(layout.order) == 4:
        names[layout.order[0]] = channel
    offset, linear, found = np.array(image.offset_nm), np.ones(ndim), listed(image)
    if found is None:  # neuroglancer assumes voxels of size 1 without a unit
        linear[space] = scales[space] * 1e-9
    else:  # neuroglancer applies the image's own scale, and its translation to the voxel's centre
        multiscale, array_name = found
        sizes, moved = multiscale.transform(array_name, ndim)
        scale = np.array(sizes or np.ones(ndim))[space]
        translation = np.array(moved or np.zeros(ndim))[space]
        offset = offset - (translation - scale / 2) * image.voxel_size_nm / scale
    offset_vx = np.zeros(ndim)
    offset_vx[space] = offset / image.voxel_size_nm
    dimensions = neuroglancer.CoordinateSpace(names=names, units=units, scales=scales.tolist())
    transform = neuroglancer.CoordinateSpaceTransform(output_dimensions=dimensions)
    if found is None or np.abs(offset_vx).max() > 1e-6:
        transform.matrix = np.concatenate([np.diag(linear), offset_vx[:, None]], axis=1)
    scheme = f"zarr{stored.metadata.zarr_format}"
    return neuroglancer.LayerDataSource(url=f"{address}|{scheme}:", transform=transform)


def _image_shader(image: Image) -> str:
    """Make the shader of an image; its limits are percentiles of the middle of the image."""
    sizes = zip(image.array.shape, (8, 512, 512), strict=True)
    part = tuple(slice(max(0, (n - m) // 2), (n + m) // 2) for n, m in sizes)
    low, high = np.percentile(np.asarray(image.array[part]), [0.5, 99.5])
    high = high if high > low else low + 1
    return IMAGE_SHADER.format(low=low, high=high)


def _prediction_shader(config: Config) -> str:
    """Make the shader of a prediction for the channels of its network."""
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
