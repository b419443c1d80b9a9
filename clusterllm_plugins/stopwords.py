"""The commonest function words of twelve languages: words that name no cluster.

The scoring of :mod:`clusterllm_plugins.naming` weighs down what stands in every cluster alike; the list is for
small or mixed corpora, where a function word stands unevenly by chance or by language. One set serves all
languages, as the language of a text is not known: a word that is a stop word in one of them is dropped in all.

So what is frequent *content* elsewhere is left out, however common it is as a function word, and is left to the
scoring: German "war", "man", "hat", "fast" and "bin", French "car", "son", "ton", "comment", Dutch "van" and "door",
Swedish "men" and "mot" (as in "mot de passe"), Danish "ville" (French for city) and "mod", Polish "pod", Portuguese
"os". German "die" stays in: the commonest German word, and hardly ever what an English cluster is about; so do
Spanish "para" (Turkish for money), Swedish "sin" and French "pour". Words of one letter are no terms at all.
"""
# ruff: noqa: RUF001 - Cyrillic and Turkish letters are meant

from __future__ import annotations

_ENGLISH = """
the an and or but nor if than then so because as while of in on at to from by for with without about into onto over
under between through during before after is am are was were be been being have has had having do does did doing done
can could will would shall should may might must it its he she him her his hers they them their we us our you your my
me mine this that these those there here what which who whom whose when where why how not no yes just also too very
some any all each every such only again up down out off get got
ve ll re don doesn didn isn aren wasn weren hasn haven hadn won wouldn couldn shouldn mustn ain let
im ive dont cant wont doesnt didnt isnt
"""  # the third block: what is left of "I've", "don't" and their like, and how these are written in haste

_GERMAN = """
der die das den dem des ein eine einer einem einen eines und oder aber doch denn sondern ich du er sie es wir ihr mich
mir dich dir ihn ihm ihnen uns euch mein meine meinen meinem meiner dein deine sein seine ihre ihren unser unsere nicht
kein keine mit von vom zu zum zur bei beim nach aus auf für über unter durch gegen ohne um an am im ins als wie wenn
weil dass ob ist sind waren wird werden wurde habe haben hatte kann können muss soll wo wer warum hier da dann auch
noch nur schon sich dieser diese dieses
"""

_FRENCH = """
le la les un une des du de et ou mais donc ni je tu il elle on nous vous ils elles me te se lui leur leurs mes tes sa
ses ma mon notre nos votre vos ce cet cette ces ça qui que quoi qu dont où au aux dans en par pour sur avec sans sous
chez entre vers est suis es sommes êtes sont était être ai as avons avez ont avait avoir ne pas plus si comme quand
pourquoi très aussi tout tous toute peut peux fait
"""

_SPANISH = """
el la los las lo un una unos unas de del al ni pero que qué en con por para como cómo más muy sí si no se me mi mis te
tu tus le les nos su sus yo él ella ellos nosotros usted ustedes ya ha he han hay es está están estoy ser fue sobre
entre hasta desde también este esta estos esto ese esa eso cuando cuándo donde dónde quien quién porque tengo tiene
puedo puede
"""

_ITALIAN = """
il lo la gli le un uno una di del dello della dei degli delle dell da dal dalla dall al allo alla ai agli alle all in
nel nella nei nelle nell con su sul sulla sull per tra fra ed ma che chi cosa come dove quando perché non più anche se
io lui lei noi voi loro mi ti ci vi si mio mia miei suo sua questo questa questi quello quella sono sei siamo siete ho
hai ha abbiamo hanno essere stato avere molto già
"""

_PORTUGUESE = """
um uma uns umas do da dos das no na nos nas ao aos em de por pelo pela com sem para que quem não sim se mas mais como
eu ele ela eles elas nós você vocês me te lhe meu minha meus minhas seu sua seus suas isso isto este esta esse essa
aquele aquela quando onde porque também já muito foi são está estão estou ser ter tem tenho tinha pode posso sobre até
"""

_DUTCH = """
de het een en of maar want omdat in op te ten ter aan bij uit om met voor naar over tot tegen onder dat die dit deze
wat wie waar hoe waarom er ik je jij jouw jullie hij zij ze wij we mij mijn hem zijn haar hun ons onze is ben bent was
waren wordt worden heb heeft hebben had kan kunnen zal zou moet niet geen wel ook nog al als dan toch
"""

_SWEDISH = """
och att det den de som en ett på är av för med till inte om han hon jag du vi ni mig dig sig oss dem min mitt mina din
ditt dina sin sitt sina vår var har hade ska skulle kan kunde eller från när där här hur vad vem varför vilken denna
detta dessa så också bara än efter under över vid utan mycket blev blir nu alla någon något
"""

_DANISH_AND_NORWEGIAN = """
og at det den de der som en et til på er af av for med ikke om jeg du han hun vi mig meg dig deg sig seg dem min mit
mitt mine din dit ditt sin har havde hadde vil kan kunne skal skulle blev ble bli blir være været vært eller fra når
hvor hvad hva hvem hvordan hvorfor denne dette disse så også kun efter etter under over ved uden uten meget nu nå noget
noe nogle noen alle jo
"""

_POLISH = """
nie się na do to że jest są jak za po od dla co ale czy tak już tylko przez przed przy nad bez ze we ich jego jej mi
mnie mam ma ja ty on ona ono my wy oni mój moja moje twój ten ta te tego tej tym być był była było były będzie może
można który która które kto gdzie kiedy dlaczego bardzo oraz lub albo więc też także jeszcze żeby aby gdy jeśli mu nam
"""

_RUSSIAN = """
не на что он она оно они мы вы ты как это этот эта эти но за по из от до для при под над без со во ко об же бы ли или
если то так его её ее их им мне меня мой моя моё мое мои тебя вам вас нас нам свой свою был была было были быть есть
будет уже ещё еще только тоже также когда где кто чем почему чтобы потому который которая которые там тут вот все всё
всех очень может можно нет да ни
"""

_TURKISH = """
ve bir bu şu için ile de da ki mi mı mu mü ne ama fakat veya ya çok daha en gibi kadar olarak olan oldu olur olacak var
yok değil ben sen biz siz onlar bana sana ona bize beni seni onu benim senin onun bizim nasıl neden niye nerede kim her
hiç sonra önce göre ise diye çünkü eğer hem bunu
"""

_LANGUAGES = (_ENGLISH, _GERMAN, _FRENCH, _SPANISH, _ITALIAN, _PORTUGUESE, _DUTCH, _SWEDISH, _DANISH_AND_NORWEGIAN)

STOP_WORDS = frozenset(" ".join((*_LANGUAGES, _POLISH, _RUSSIAN, _TURKISH)).split())
