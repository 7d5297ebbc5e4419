"""The paper's theory (Sections 3.1-3.2) as executable statements: problems, algorithm, rates."""
