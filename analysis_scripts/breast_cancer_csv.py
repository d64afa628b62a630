"""scikit-learn's breast-cancer table as a CSV for `stability bound`: python breast_cancer_csv.py FILE."""

import sys

from sklearn.datasets import load_breast_cancer

from stability._files import write

if len(sys.argv) != 2:
    sys.exit("usage: python analysis_scripts/breast_cancer_csv.py FILE.csv")
table = load_breast_cancer(as_frame=True)
frame = table.data.assign(diagnosis=table.target.map(dict(enumerate(table.target_names))))
write(sys.argv[1], frame.to_csv(index=False, lineterminator="\n").encode())
print(f"{len(frame)} rows, {frame.shape[1] - 1} columns and the target 'diagnosis' in {sys.argv[1]}")
