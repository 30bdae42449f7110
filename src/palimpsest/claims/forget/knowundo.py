"""Does unlearning what is private of a person cost less of what is public where only located tensors move?
(Tian et al. 2024, 2407.01920)"""

from palimpsest.benches import Recipe
from palimpsest.benches.private_people import PRIVATE_PEOPLE
from palimpsest.benches.rows import GRID, UNTIL_FORGOTTEN
from palimpsest.evidence.sentences import beats, mechanism
from palimpsest.forget.knowundo import MemFlex

claim = PRIVATE_PEOPLE.claim(
    paper="knowundo",
    question=(
        "When people's private attributes are unlearned to the same level, is more kept of what is public of them "
        "where only the tensors move that gradients on random answers locate, than where all move, or as many others?"
    ),
    method=Recipe(MemFlex(unlearn_weight=1.0, grad=None, names="_proj"), grid=GRID, level=UNTIL_FORGOTTEN),
    arms={"memflex at random": {"located": "random"}},
    central=beats("grad_diff", on="retention success", share_of_room=0.10),
    also=[mechanism(beats("memflex at random", on="retention success", by=0.05))],
    name="memflex",
    differs=(
        "A two-layer model knows seven attributes of 16 invented people; the paper has rows of its own and 7B models "
        "with LoRA, among whose matrices it locates. Here the 14 matrices of the linear layers are the candidates, and "
        "those above the median gradient move, with the paper's threshold of the cosine. Both terms weigh what tuning "
        "finds, over the grid that gradient difference has (the paper: 0.4 to 2). Unlearning is given one public row of"
        " each person and judged by others; all arms stop at one level of forgetting. Perplexity and general tasks "
        "are not compared."
    ),
)
