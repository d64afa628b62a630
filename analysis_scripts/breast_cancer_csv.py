"""scikit-learn's breast-cancer table as a CSV for `stability bound`: python breast_cancer_csv.py FILE."""

import sys
from pathlib import Path

from sklearn.datasets import load_breast_cancer

if len(sys.argv) != 2:
    sys.exit("usage: python analysis_scripts/breast_cancer_csv.py FILE.csv")
table = load_breast_cancer(as_frame=True)
frame = table.data.assign(diagnosis=table.target.map(dict(enumerate(table.target_names))))
Path(sys.argv[1]).parent.mkdir(parents=True, exist_ok=True)
frame.to_csv(sys.argv[1], index=False)
print(f"{len(frame)} rows, {frame.shape[1] - 1} columns and the target 'diagnosis' in {sys.argv[1]}")
