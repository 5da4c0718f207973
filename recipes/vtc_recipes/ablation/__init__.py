"""Grids of configurations, each asked the same questions: ``vtc ablate`` and ``vtc report``.

`grid` reads a YAML file and makes the cells; `plan` makes jobs of them; `work` runs these, sharing
them with other workers through `leases`; `running` asks a cell's questions and `trainings` trains
a model that cells need. `records` reads what they left, and `tables` and `plots` show it.
"""
