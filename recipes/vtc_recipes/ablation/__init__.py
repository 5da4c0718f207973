"""Grids of configurations, each asked the same questions: ``vtc ablate`` and ``vtc report``.

`grid` reads a YAML file and builds the cells; `plan` turns them into jobs; `work` runs the jobs and
shares them with other workers on the machine; `running` asks the questions of a cell, and
`trainings` trains a model that cells need. `records` reads the results, and `tables` and `plots`
show them.
"""
