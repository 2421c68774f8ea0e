"""The values of tensors and variables, both eagerly and in graphs.

In a graph, as on TensorFlow 1, values come from a session that belongs to the graph. A variable is
initialised there when its value is first needed.
"""

import tensorflow as tf

v1 = tf.compat.v1


def value(structure):
    """The NumPy values of tensors and variables in a structure of lists, tuples and dicts.

    First, the averages of batch normalisation are updated for each call of `BatchNorm` in training
    since the last evaluation. Eagerly they are updated already; in a graph UPDATE_OPS does it.
    """
    if tf.executing_eagerly():
        return tf.nest.map_structure(lambda part: part.numpy(), structure)
    session = _session()
    updates = v1.get_collection_ref(v1.GraphKeys.UPDATE_OPS)
    session.run(updates[:])
    updates.clear()
    return session.run(structure)


def assign(variable, values):
    """Sets a variable."""
    if tf.executing_eagerly():
        variable.assign(values)
    else:
        _session().run(variable.assign(values, read_value=False))


def compiled(function):
    """Turns a function of tensors into a function of arrays, which returns values.

    The first call builds the graph, so all calls must have arrays of the same shapes and types.
    """
    if tf.executing_eagerly():
        graph_function = tf.function(function)
        return lambda *arrays: value(graph_function(*map(tf.constant, arrays)))
    built = []

    def run(*arrays):
        if not built:
            fed = [v1.placeholder(array.dtype, array.shape) for array in arrays]
            built.append((fed, function(*fed)))
        fed, result = built[0]
        return _session().run(result, dict(zip(fed, arrays)))

    return run


def _session():
    """The default graph's session, in which all variables have values."""
    sessions = v1.get_collection_ref("evaluated/sessions")
    if not sessions:
        sessions.append(v1.Session())
    initialized = v1.get_collection_ref("evaluated/initialized")
    variables = v1.global_variables() + v1.local_variables()
    new = [v for v in variables if v.name not in initialized]
    sessions[0].run([variable.initializer for variable in new])
    initialized.extend(variable.name for variable in new)
    return sessions[0]
