"""Small models on meshes of emulated devices."""

import functools
import math

import cases
import jax

from train.mesh import batch_sharding
from train.setup import with_kernels, with_microbatches
from train.state import make_recipe, state_shardings
from train.step import gradients

ONE = {'data': 1}


def on_mesh(shape, **overrides):
  """A recipe and its mesh, over as many devices as the mesh has."""
  config = cases.tiny_train_config(
    **overrides, **{f'mesh.{axis}': size for axis, size in shape.items()}
  )
  mesh = cases.mesh_of(make_recipe(config), math.prod(shape.values()))
  config = with_microbatches(with_kernels(config, mesh)[0], mesh)
  return make_recipe(config), mesh


def rows_on(mesh, recipe, rows_BR):
  """The rows, split over the mesh."""
  sharding = batch_sharding(
    mesh,
    recipe.config.mesh.rules,
    batch_size=len(rows_BR),
    field='batch_size',
  )
  return jax.device_put(rows_BR, sharding)


def run_gradients(shape, rows_BR, params=None, **overrides):
  """Gradients, and the sums of the loss, of some rows on a mesh."""
  recipe, mesh = on_mesh(shape, **overrides)
  shardings = state_shardings(recipe, mesh).params
  params = cases.random_params(recipe) if params is None else params
  function = functools.partial(gradients, recipe=recipe, marks=cases.MARKS)
  with jax.set_mesh(mesh):
    return jax.jit(function, out_shardings=(shardings, None))(
      jax.device_put(params, shardings),
      rows_on(mesh, recipe, rows_BR),
      jax.random.key(1),
    )
