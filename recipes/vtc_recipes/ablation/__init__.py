"""Grids of configurations that answer the same questions: ``vtc ablate`` and ``vtc report``.

`grid` reads a YAML file and builds the cells; `plan` turns them into jobs; `work` runs the jobs and
shares them among workers on the machine; `running` asks a cell's questions, and `trainings` trains
the models that cells need. `records` reads the results, and `tables` and `plots` show them.
"""
