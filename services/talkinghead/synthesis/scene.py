"""Stage 4: the portrait in Blender's Cycles. Run inside Blender, with numpy only:

    blender --background --factory-startup --python scene.py -- SCENE.npz JOBS.json OUT_DIR

`SCENE.npz` holds the neutral person (see render.py). `JOBS.json` is a list of
{"name", "moved": npz or null, "border": [left, top, right, bottom] in 0..1 or null, "samples"}.
Each job writes OUT_DIR/NAME.exr (colour, alpha, depth, albedo and normal); existing files are skipped,
so a stopped run goes on where it was.
"""

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import bpy
import numpy as np
from mathutils import Vector

Mesh = Any  # bpy objects carry no types


def main() -> None:
    """Build the scene once and render every missing job."""
    scene_path, jobs_path, out = sys.argv[sys.argv.index("--") + 1 :][:3]
    jobs = json.loads(Path(jobs_path).read_text())
    data = dict(np.load(scene_path))
    bpy.ops.wm.read_factory_settings(use_empty=True)
    objects = build_person(data)
    place_lights(data)
    place_camera(data)
    configure_render(int(data["size"]))
    for job in jobs:
        path = Path(out) / f"{job['name']}.exr"
        if path.exists():
            continue
        started = time.monotonic()
        move_person(objects, data, job["moved"])
        render(job, path)
        sys.stderr.write(f"rendered {path.name} in {time.monotonic() - started:.1f} s\n")


# Person ---------------------------------------------------------------------------------------


def build_person(data: dict[str, Any]) -> dict[str, Mesh]:
    """Make every object; returns those that a job may move, by name."""
    scale = float(data["scale"])
    look = json.loads(str(data["look"]))
    skin = add_mesh("skin", data["skin"], data["skin_quads"], skin_material(scale))
    for name in ("colour", "mask", "rest"):
        add_attribute(skin, name, data[f"skin_{name}"])
    objects = {"skin": skin}
    for name, roughness, specular in (("eyes", 0.05, 0.6), ("teeth", 0.22, 0.45)):
        material = painted_material(name, roughness, specular)
        objects[name] = add_mesh(name, data[name], data[f"{name}_quads"], material)
        add_attribute(objects[name], "colour", data[f"{name}_colour"])
    tongue = plain_material("tongue", (0.42, 0.13, 0.12), 0.38)
    objects["tongue"] = add_mesh("tongue", data["tongue"], data["tongue_quads"], tongue)
    cloth = add_mesh("cloth", data["cloth"], data["cloth_quads"], cloth_material(look["cloth"]))
    add_attribute(cloth, "below", np.repeat(data["cloth_below"][:, None], 3, 1))
    hair = np.array(look["hair"])
    add_strands("hair", data["hair"], 0.00011 * scale, hair_material("hair", 0.5 * hair))
    dark = hair_material("brow", 0.6 * hair)
    objects["brows"] = add_strands("brows", data["brows"], 0.00009 * scale, dark)
    lash = plain_material("lash", (0.008, 0.006, 0.005), 0.5)
    objects["lashes"] = add_strands("lashes", data["lashes"], 0.00007 * scale, lash)
    return objects


def add_mesh(name: str, vertices: Any, quads: Any, material: Any) -> Mesh:
    """A smooth-shaded mesh object from vertices [N,3] and faces [F,4]."""
    mesh = bpy.data.meshes.new(name)
    count = len(quads)
    mesh.vertices.add(len(vertices))
    mesh.vertices.foreach_set("co", np.ascontiguousarray(vertices, "f4").ravel())
    mesh.loops.add(4 * count)
    mesh.loops.foreach_set("vertex_index", np.ascontiguousarray(quads, "i4").ravel())
    mesh.polygons.add(count)
    mesh.polygons.foreach_set("loop_start", 4 * np.arange(count, dtype="i4"))
    mesh.polygons.foreach_set("loop_total", np.full(count, 4, "i4"))
    mesh.polygons.foreach_set("use_smooth", np.ones(count, bool))
    mesh.update()
    mesh.materials.append(material)
    thing = bpy.data.objects.new(name, mesh)
    bpy.context.scene.collection.objects.link(thing)
    return thing


def add_attribute(thing: Mesh, name: str, values: Any) -> None:
    """A per-vertex vector [N,3] that shaders read by name."""
    attribute = thing.data.attributes.new(name, "FLOAT_VECTOR", "POINT")
    attribute.data.foreach_set("vector", np.ascontiguousarray(values, "f4").ravel())


def add_strands(name: str, strands: Any, radius_m: float, material: Any) -> Mesh:
    """Hair curves [S,P,3]. Blender 3.4 has no direct way to fill hair curves from arrays, so a hidden
    mesh of edges is turned into curves by geometry nodes. Returns the mesh, which can be moved."""
    count, points = strands.shape[:2]
    mesh = bpy.data.meshes.new(f"{name}_edges")
    mesh.vertices.add(count * points)
    mesh.vertices.foreach_set("co", np.ascontiguousarray(strands, "f4").ravel())
    ids = np.arange(count * points).reshape(count, points)
    edges = np.stack([ids[:, :-1], ids[:, 1:]], -1).reshape(-1)
    mesh.edges.add(len(edges) // 2)
    mesh.edges.foreach_set("vertices", edges.astype("i4"))
    taper = np.linspace(1, 0.25, points)[None] * np.random.default_rng(0).uniform(
        0.7, 1.3, (count, 1)
    )
    radius = mesh.attributes.new("strand_radius", "FLOAT", "POINT")
    radius.data.foreach_set("value", (radius_m * taper).astype("f4").ravel())
    mesh.update()
    source = bpy.data.objects.new(f"{name}_edges", mesh)
    source.hide_render = True
    curves = bpy.data.hair_curves.new(name)
    curves.materials.append(material)
    thing = bpy.data.objects.new(name, curves)
    for each in (source, thing):
        bpy.context.scene.collection.objects.link(each)
    modifier = thing.modifiers.new("strands", "NODES")
    modifier.node_group = strand_nodes(name, source, material)
    return source


def strand_nodes(name: str, source: Mesh, material: Any) -> Any:
    """Geometry nodes: edges of `source` -> curves with a radius -> material."""
    group = bpy.data.node_groups.new(name, "GeometryNodeTree")
    group.inputs.new("NodeSocketGeometry", "Geometry")
    group.outputs.new("NodeSocketGeometry", "Geometry")
    info = group.nodes.new("GeometryNodeObjectInfo")
    info.inputs[0].default_value = source
    curve = group.nodes.new("GeometryNodeMeshToCurve")
    radius = group.nodes.new("GeometryNodeInputNamedAttribute")
    radius.data_type = "FLOAT"
    radius.inputs[0].default_value = "strand_radius"
    thick = group.nodes.new("GeometryNodeSetCurveRadius")
    painted = group.nodes.new("GeometryNodeSetMaterial")
    painted.inputs["Material"].default_value = material
    output = group.nodes.new("NodeGroupOutput")
    link = group.links.new
    link(info.outputs["Geometry"], curve.inputs[0])
    link(curve.outputs[0], thick.inputs[0])
    link(next(s for s in radius.outputs if s.enabled), thick.inputs["Radius"])
    link(thick.outputs[0], painted.inputs[0])
    link(painted.outputs[0], output.inputs[0])
    return group


def move_person(objects: dict[str, Mesh], neutral: dict[str, Any], moved_path: str | None) -> None:
    """Put every movable object at its place in `moved_path`, or back to the neutral face."""
    moved = dict(np.load(moved_path)) if moved_path else {}
    for name, thing in objects.items():
        vertices = moved.get(name, neutral[name])
        thing.data.vertices.foreach_set("co", np.ascontiguousarray(vertices, "f4").ravel())
        thing.data.update()
        thing.update_tag()
    bpy.context.view_layer.update()


# Materials ------------------------------------------------------------------------------------


class Shader:
    """A material under construction: short names for the few node kinds used here."""

    def __init__(self, name: str) -> None:
        self.material = bpy.data.materials.new(name)
        self.material.use_nodes = True
        self.tree = self.material.node_tree
        self.surface = self.tree.nodes["Principled BSDF"]

    def node(self, kind: str, **settings: Any) -> Any:
        """A new node with some of its properties set."""
        node = self.tree.nodes.new(kind)
        for key, value in settings.items():
            setattr(node, key, value)
        return node

    def set(self, target: Any, value: Any) -> None:
        """Link a socket to `target`, or set its default when `value` is a number or colour."""
        if hasattr(value, "links"):
            self.tree.links.new(value, target)
        elif isinstance(value, tuple) and len(value) == 3 and target.type == "RGBA":
            target.default_value = (*value, 1)
        else:
            target.default_value = value

    def attribute(self, name: str) -> Any:
        """The vector of a per-vertex attribute."""
        return self.node("ShaderNodeAttribute", attribute_name=name).outputs["Vector"]

    def noise(self, where: Any, scale: float, detail: float) -> Any:
        """Perlin noise around 0.5."""
        node = self.node("ShaderNodeTexNoise")
        self.set(node.inputs["Vector"], where)
        node.inputs["Scale"].default_value = scale
        node.inputs["Detail"].default_value = detail
        return node.outputs["Fac"]

    def cells(self, where: Any, scale: float) -> Any:
        """Distance to the nearest of scattered points."""
        node = self.node("ShaderNodeTexVoronoi")
        self.set(node.inputs["Vector"], where)
        node.inputs["Scale"].default_value = scale
        return node.outputs["Distance"]

    def ramp(
        self, x: Any, low: float, high: float, ends: tuple[Any, Any] = ((0,) * 3, (1,) * 3)
    ) -> Any:
        """A colour between two ends as `x` goes from `low` to `high`."""
        node = self.node("ShaderNodeValToRGB")
        self.set(node.inputs[0], x)
        for element, position, colour in zip(
            node.color_ramp.elements, (low, high), ends, strict=True
        ):
            element.position, element.color = position, (*colour, 1)
        return node.outputs[0]

    def math(self, operation: str, a: Any, b: Any) -> Any:
        """One arithmetic operation."""
        node = self.node("ShaderNodeMath", operation=operation)
        self.set(node.inputs[0], a)
        self.set(node.inputs[1], b)
        return node.outputs[0]

    def mix(self, amount: Any, a: Any, b: Any, how: str = "MIX") -> Any:
        """Blend colour `b` over `a`."""
        node = self.node("ShaderNodeMixRGB", blend_type=how)
        for socket, value in zip(node.inputs, (amount, a, b), strict=True):
            self.set(socket, value)
        return node.outputs[0]

    def split(self, vector: Any) -> Any:
        """The three parts of a vector."""
        node = self.node("ShaderNodeSeparateXYZ")
        self.set(node.inputs[0], vector)
        return node.outputs

    def bump(self, height: Any, strength: float, distance_m: float) -> None:
        """Roughen the surface by a height field."""
        node = self.node("ShaderNodeBump")
        node.inputs["Strength"].default_value = strength
        node.inputs["Distance"].default_value = distance_m
        self.set(node.inputs["Height"], height)
        self.set(self.surface.inputs["Normal"], node.outputs[0])

    def to_linear(self, painted: Any) -> Any:
        """Painted colours are eyeballed on screen; a power of 1.5 suits them to the light here."""
        node = self.node("ShaderNodeGamma")
        self.set(node.inputs[0], painted)
        node.inputs[1].default_value = 1.5
        return node.outputs[0]


def skin_material(scale: float) -> Any:
    """Painted regions, mottling, freckles, stubble dots, pores; light scatters under the surface."""
    shader = Shader("skin")
    where, inputs = shader.attribute("rest"), shader.surface.inputs
    lips, _, beard = shader.split(shader.attribute("mask"))[:3]
    mottle = shader.noise(where, 160, 6)
    blotch = shader.noise(where, 38, 3)
    colour = shader.attribute("colour")
    colour = shader.mix(
        1.0,
        colour,
        shader.ramp(mottle, 0.3, 0.7, ((0.93, 0.90, 0.90), (1.05, 1.05, 1.05))),
        "MULTIPLY",
    )
    colour = shader.mix(
        1.0,
        colour,
        shader.ramp(blotch, 0.3, 0.7, ((0.985, 0.965, 0.96), (1.01, 1.01, 1.01))),
        "MULTIPLY",
    )
    freckles = shader.math("MULTIPLY", shader.ramp(shader.noise(where, 420, 2), 0.64, 0.72), 0.20)
    colour = shader.mix(freckles, colour, (0.72, 0.55, 0.47), "MULTIPLY")
    dots = shader.ramp(shader.cells(where, 1000), 0.18, 0.42, ((1,) * 3, (0,) * 3))
    dots = shader.math("MULTIPLY", shader.math("MULTIPLY", dots, beard), 0.55)
    colour = shader.mix(dots, colour, (0.45, 0.40, 0.38), "MULTIPLY")
    colour = shader.to_linear(colour)
    shader.set(inputs["Base Color"], colour)
    shader.set(inputs["Subsurface Color"], colour)
    inputs["Subsurface"].default_value = 0.12
    inputs["Subsurface Radius"].default_value = (0.0070 * scale, 0.0026 * scale, 0.0014 * scale)
    inputs["Specular"].default_value = 0.40
    shine = shader.ramp(lips, 0, 1, ((0.50,) * 3, (0.34,) * 3))
    shader.set(inputs["Roughness"], shader.mix(0.35, shine, shader.noise(where, 55, 4)))
    pores = shader.math("ADD", shader.cells(where, 850), shader.math("MULTIPLY", mottle, 1.4))
    shader.bump(pores, 0.32, 0.0007 * scale)
    return shader.material


def painted_material(name: str, roughness: float, specular: float) -> Any:
    """Per-vertex paint under a gloss."""
    shader = Shader(name)
    shader.set(shader.surface.inputs["Base Color"], shader.to_linear(shader.attribute("colour")))
    shader.surface.inputs["Roughness"].default_value = roughness
    shader.surface.inputs["Specular"].default_value = specular
    return shader.material


def plain_material(name: str, colour: tuple[float, float, float], roughness: float) -> Any:
    """One colour."""
    shader = Shader(name)
    shader.set(shader.surface.inputs["Base Color"], colour)
    shader.surface.inputs["Roughness"].default_value = roughness
    return shader.material


def cloth_material(colour: list[float]) -> Any:
    """Fine knitwear, cut away above the neckline."""
    shader = Shader("cloth")
    inputs = shader.surface.inputs
    place = shader.node("ShaderNodeTexCoord").outputs["Object"]
    weave = shader.node("ShaderNodeTexWave")
    shader.set(weave.inputs[0], place)
    weave.inputs["Scale"].default_value = 110
    weave.inputs["Distortion"].default_value = 1.5
    shade = shader.ramp(shader.noise(place, 220, 3), 0.3, 0.7, ((0.8,) * 3, (1.15,) * 3))
    shader.set(inputs["Base Color"], shader.mix(1.0, tuple(colour), shade, "MULTIPLY"))
    inputs["Roughness"].default_value = 0.9
    inputs["Sheen"].default_value = 0.5
    inputs["Specular"].default_value = 0.15
    shader.bump(weave.outputs["Fac"], 0.30, 0.001)
    below = shader.split(shader.attribute("below"))[0]
    shader.set(inputs["Alpha"], shader.math("GREATER_THAN", below, 0.0))
    return shader.material


def hair_material(name: str, colour: Any) -> Any:
    """Cycles' hair shader, with some variation from strand to strand."""
    material = bpy.data.materials.new(name)
    material.use_nodes = True
    tree = material.node_tree
    tree.nodes.clear()
    hair = tree.nodes.new("ShaderNodeBsdfHairPrincipled")
    hair.parametrization = "COLOR"
    hair.inputs["Color"].default_value = (*(float(c) for c in colour), 1)
    hair.inputs["Roughness"].default_value = 0.34
    hair.inputs["Radial Roughness"].default_value = 0.45
    hair.inputs["Random Roughness"].default_value = 0.2
    hair.inputs["Random Color"].default_value = 0.15
    output = tree.nodes.new("ShaderNodeOutputMaterial")
    tree.links.new(hair.outputs[0], output.inputs[0])
    return material


# Light and camera -----------------------------------------------------------------------------


def place_lights(data: dict[str, Any]) -> None:
    """A large window to his right, a soft fill, a rim from behind, and a pale sky."""
    centre = Vector([float(v) for v in data["eye_centre"]])
    add_light("window", centre, Vector((-0.80, -1.00, 0.50)), 0.85, 21, (1.0, 0.95, 0.90))
    add_light("fill", centre, Vector((1.10, -0.95, 0.00)), 1.3, 8, (0.88, 0.93, 1.0))
    # Small and bright, for a catch light in the eyes.
    add_light("catch", centre, Vector((-0.24, -1.10, 0.13)), 0.15, 3.0, (1.0, 0.98, 0.95))
    add_light("rim", centre, Vector((0.70, 0.90, 0.60)), 0.5, 8, (1.0, 0.97, 0.93))
    world = bpy.data.worlds.new("sky")
    bpy.context.scene.world = world
    world.use_nodes = True
    sky = world.node_tree.nodes["Background"]
    sky.inputs[0].default_value = (0.62, 0.66, 0.72, 1)
    sky.inputs[1].default_value = 0.34


def add_light(
    name: str, centre: Any, offset: Any, size_m: float, watts: float, colour: Any
) -> None:
    """A square area light at `centre + offset` that points at `centre`."""
    lamp = bpy.data.lights.new(name, "AREA")
    lamp.energy, lamp.size, lamp.color = watts, size_m, colour
    thing = bpy.data.objects.new(name, lamp)
    thing.location = centre + offset
    thing.rotation_euler = (-offset).to_track_quat("-Z", "Y").to_euler()
    bpy.context.scene.collection.objects.link(thing)


def place_camera(data: dict[str, Any]) -> None:
    """At `camera` [3], towards `camera_target` [3]."""
    position, target = (Vector([float(v) for v in data[k]]) for k in ("camera", "camera_target"))
    camera = bpy.data.cameras.new("camera")
    camera.angle = math.radians(float(data["field_of_view_deg"]))
    thing = bpy.data.objects.new("camera", camera)
    thing.location = position
    thing.rotation_euler = (target - position).to_track_quat("-Z", "Y").to_euler()
    scene = bpy.context.scene
    scene.collection.objects.link(thing)
    scene.camera = thing


# Rendering ------------------------------------------------------------------------------------


def configure_render(size: int) -> None:
    """Path tracing on the CPU, transparent background, every pass that the denoiser wants."""
    scene = bpy.context.scene
    scene.render.engine = "CYCLES"
    scene.render.resolution_x = scene.render.resolution_y = size
    scene.render.resolution_percentage = 100
    scene.render.film_transparent = True
    scene.render.use_persistent_data = True
    scene.render.image_settings.file_format = "OPEN_EXR_MULTILAYER"
    scene.render.image_settings.color_depth = "32"
    cycles = scene.cycles
    cycles.device = "CPU"
    # One seed for all jobs: where nothing moved, the noise is the same and differences vanish.
    cycles.seed = 7
    cycles.use_adaptive_sampling = False
    cycles.use_denoising = False
    cycles.max_bounces, cycles.diffuse_bounces, cycles.glossy_bounces = 5, 2, 2
    cycles.transparent_max_bounces = 8
    cycles.caustics_reflective = cycles.caustics_refractive = False
    cycles.sample_clamp_indirect = 3.0
    layer = bpy.context.view_layer
    layer.use_pass_z = True
    layer.cycles.denoising_store_passes = True


def render(job: dict[str, Any], path: Path) -> None:
    """Render one job; the border is given from the top left, Blender wants it from the bottom."""
    scene = bpy.context.scene
    scene.cycles.samples = job["samples"]
    scene.render.use_border = scene.render.use_crop_to_border = job["border"] is not None
    if job["border"] is not None:
        left, top, right, bottom = job["border"]
        scene.render.border_min_x, scene.render.border_max_x = left, right
        scene.render.border_min_y, scene.render.border_max_y = 1 - bottom, 1 - top
    # Written under another name first, so that a killed run leaves no half picture behind.
    unfinished = path.with_suffix(".part.exr")
    scene.render.filepath = str(unfinished)
    bpy.ops.render.render(write_still=True)
    unfinished.rename(path)


if __name__ == "__main__":
    main()
