"""Programs of the kind of Captum's tutorials on small local models, with captum and with pellucid.captum: only the import differs.

Generation is in `test_llm`. The programs are written anew; what they call, and in which order, is what such programs call.
"""

import importlib
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests import hugging

pytest.importorskip("transformers")


def both(program, *args):
    """What the program finds with captum, which may warn as it likes, and with Pellucid."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = program(importlib.import_module("captum.attr"), *args)
    return theirs, program(importlib.import_module("pellucid.captum.attr"), *args)


class TextCNN(nn.Module):
    """Sentiment of a text, by convolutions over its embedding."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(30, 8)
        self.convs = nn.ModuleList([nn.Conv2d(1, 6, (size, 8)) for size in (2, 3)])
        self.fc, self.dropout = nn.Linear(12, 1), nn.Dropout(0.5)

    def forward(self, text):
        embedded = self.embedding(text).unsqueeze(1)
        seen = [F.relu(conv(embedded)).squeeze(3) for conv in self.convs]
        pooled = [F.max_pool1d(each, each.shape[2]).squeeze(2) for each in seen]
        return torch.sigmoid(self.fc(self.dropout(torch.cat(pooled, 1))))


def sentiment(attr, model):
    references = attr.TokenReferenceBase(reference_token_idx=1)
    lig = attr.LayerIntegratedGradients(model, model.embedding)
    records = []
    for words in (["it", "was", "a", "great", "film"], ["not", "worth", "it", "at", "all"]):
        ids = torch.tensor([[sum(map(ord, word)) % 28 + 2 for word in words] + [1, 1]])
        model.zero_grad()
        score = float(model(ids).detach())
        reference = references.generate_reference(ids.shape[1], device="cpu").unsqueeze(0)
        attributions, delta = lig.attribute(ids, reference, n_steps=60, return_convergence_delta=True)
        summed = attributions.sum(dim=2).squeeze(0)
        summed = (summed / torch.norm(summed)).detach()
        records.append(
            attr.visualization.VisualizationDataRecord(
                summed, score, "pos" if score > 0.5 else "neg", "pos", "pos", float(summed.sum()), words, float(delta.abs().max())
            )
        )
    return records


def test_sentiment():
    torch.manual_seed(0)
    model = TextCNN().eval()
    theirs, ours = both(sentiment, model)
    for one, other in zip(theirs, ours, strict=True):
        torch.testing.assert_close(other.word_attributions, one.word_attributions, rtol=1e-4, atol=1e-6)
        assert other.pred_prob == one.pred_prob
        assert other.convergence_score < 0.05


def question(attr, model, tokenizer):
    """Start and end of an answer, by all embeddings, by each of them, and by layer."""
    text = "who made it ? anna made a film in paris ."
    encoded = tokenizer(*text.split(" ? "), return_tensors="pt")
    ids, kinds, mask = encoded["input_ids"], encoded["token_type_ids"], encoded["attention_mask"]
    special = {tokenizer.cls_token_id, tokenizer.sep_token_id}
    reference = torch.tensor([[i if i in special else tokenizer.pad_token_id for i in ids[0].tolist()]])
    positions = torch.arange(ids.shape[1])[None]

    def squad(inputs, token_type_ids=None, position_ids=None, attention_mask=None, position=0):
        output = model(inputs, token_type_ids=token_type_ids, position_ids=position_ids, attention_mask=attention_mask)
        return (output.start_logits, output.end_logits)[position].max(1).values

    found = []
    for position in (0, 1):
        lig = attr.LayerIntegratedGradients(squad, model.bert.embeddings)
        attributions, delta = lig.attribute(
            inputs=ids, baselines=reference, additional_forward_args=(kinds, positions, mask, position),
            return_convergence_delta=True, n_steps=30,
        )  # fmt: skip
        found += [attributions.sum(2), delta]
        each = attr.LayerIntegratedGradients(squad, [model.bert.embeddings.word_embeddings, model.bert.embeddings.token_type_embeddings])
        parts = each.attribute(
            inputs=(ids, kinds), baselines=(reference, torch.zeros_like(kinds)),
            additional_forward_args=(positions, mask, position), n_steps=30,
        )  # fmt: skip
        found += [part.sum(2) for part in parts]
    return [f.detach() for f in found]


def test_question_answering(tmp_path):
    folder = hugging.bert(tmp_path / "qa", "BertForQuestionAnswering")
    model, tokenizer = hugging.loaded(folder, "BertForQuestionAnswering"), hugging.wordpiece()
    theirs, ours = both(question, model, tokenizer)
    for one, other in zip(theirs, ours, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-6, atol=1e-8)


class Answers(nn.Module):
    """An answer to a question about a picture: both are read by nets of their own and put together."""

    def __init__(self):
        super().__init__()
        self.image = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.embedding = nn.Embedding(20, 8)
        self.read = nn.LSTM(8, 12, batch_first=True)
        self.answer = nn.Sequential(nn.Linear(36, 16), nn.Tanh(), nn.Linear(16, 5))

    def forward(self, picture, question, lengths):
        embedded = torch.tanh(self.embedding(question))
        packed = nn.utils.rnn.pack_padded_sequence(embedded, lengths, batch_first=True)
        _, (_, cell) = self.read(packed)
        return self.answer(torch.cat([self.image(picture), cell[0]], 1))


def visual_question(attr, model):
    """By an embedding layer that is put in the place of the model's own, as such programs did before layers could be wrapped."""
    torch.manual_seed(1)
    picture, words, lengths = torch.rand(1, 3, 8, 8).double(), torch.tensor([[3, 9, 4, 1]]), torch.tensor([4])
    interpretable = attr.configure_interpretable_embedding_layer(model, "embedding")
    try:
        references = attr.TokenReferenceBase(reference_token_idx=0)
        reference = interpretable.indices_to_embeddings(references.generate_reference(4, device="cpu").unsqueeze(0))
        embedded = interpretable.indices_to_embeddings(words)
        best = int(model(picture, embedded, lengths).argmax())
        ig = attr.IntegratedGradients(model)
        found, delta = ig.attribute(
            inputs=(picture, embedded), baselines=(picture * 0.0, reference), target=best, additional_forward_args=lengths,
            n_steps=30, return_convergence_delta=True,
        )  # fmt: skip
    finally:
        attr.remove_interpretable_embedding_layer(model, interpretable)
    wrapped = attr.LayerIntegratedGradients(model, model.embedding)
    assert isinstance(model.embedding, nn.Embedding)
    return [*(f.detach() for f in found), delta.detach()], wrapped


def test_visual_question_answering():
    torch.manual_seed(0)
    model = Answers().double().eval()
    (theirs, _), (ours, _) = both(visual_question, model)
    for one, other in zip(theirs, ours, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-6, atol=1e-8)
    assert float(ours[-1].abs().max()) < 0.05


def test_the_same_question_in_fewer_lines():
    """Nothing is put in the model's place: picture and question go in as they are, each gets its attributions."""
    import pellucid

    torch.manual_seed(0)
    model = Answers().double().eval()
    (theirs, _), _ = both(visual_question, model)
    torch.manual_seed(1)
    picture, words, lengths = torch.rand(1, 3, 8, 8).double(), torch.tensor([[3, 9, 4, 1]]), torch.tensor([4])
    told = pellucid.explain(
        model, {"picture": picture, "question": words}, method="integrated_gradients", steps=30, rule="gausslegendre",
        kwargs={"lengths": lengths}, baselines={"picture": 0.0, "question": 0},
    )  # fmt: skip
    found = {values.dim(): values for values in told.attributions}
    torch.testing.assert_close(found[4], theirs[0], rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(found[3], theirs[1], rtol=1e-6, atol=1e-8)
