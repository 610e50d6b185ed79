"""Decides. Measured load in, experts per token out; knows no torch and no Ray.

metrics --Sample--> estimator --Load--> policy --Budget--> allocator --Plan--> replicas

The four nouns are in `signals`; `loop.Controller.tick` runs the arrows in this order.
"""
