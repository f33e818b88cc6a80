"""Look at single synapses of a result, judge them, and learn from the verdicts.

A store keeps the verdicts beside the result (`store`); places tie them to the synapses of any
decoding (`matching`); orders say which synapse comes next (`orders`); an estimate says how good the
result is (`estimate`); and a page shows one tile after another (`server`).
"""
